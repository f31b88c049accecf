"""The curve of a training run as a file of comma-separated values, to which lines are added."""

import csv
import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from overnet.errors import OutputError, file_errors
from overnet.files.atomic import atomic_write

_COLUMNS = ("step", "seconds", "loss", "learning_rate", "patches_per_second")
_PSNR_COLUMN = re.compile(r"psnr_x(\d+(?:\.\d+)?)_db")


@dataclass(frozen=True)
class CurvePoint:
    """The state of a run at one step.

    Attributes:
        step: steps done.
        seconds: of training, since the run first began, pauses left out.
        loss: mean of the steps since the point before; None where there were no steps.
        learning_rate: of the last step.
        patches_per_second: since the point before, over all processes, validations left out.
        psnr_db: by scale, where the step was validated.
    """

    step: int
    seconds: float
    loss: float | None = None
    learning_rate: float | None = None
    patches_per_second: float | None = None
    psnr_db: Mapping[float, float] | None = None


class Curve:
    """The file: a line of names, and a line for each point, in which unknown values are empty.

    Args:
        path: the file. Of a run that is resumed, the lines up to its step are kept, and all columns.
        scales: those that are validated; each has a column ``psnr_x<scale>_db``.
        start: the step at which the run is resumed; at 0, an existing file is replaced.

    Raises:
        OutputError: the file cannot be written.
    """

    def __init__(self, path: Path, scales: list[float], start: int) -> None:
        self._path = path
        kept = [row for row in _read(path) if int(row["step"]) <= start] if start else []
        known = {float(found[1]) for name in (kept[0] if kept else ()) if (found := _PSNR_COLUMN.fullmatch(name))}
        self._scales = sorted(known | set(scales))
        self._last_step = int(kept[-1]["step"]) if kept else -1
        names = [*_COLUMNS, *(f"psnr_x{scale:g}_db" for scale in self._scales)]
        with atomic_write(path, overwrite=True) as temporary:
            lines = [_line(names), *(_line([row.get(name, "") for name in names]) for row in kept)]
            temporary.write_bytes(b"".join(lines))

    def add(self, point: CurvePoint) -> None:
        """Append a point, unless its step is there already (a finished run that is resumed validates once more).

        Raises:
            OutputError: the disk is full, or the file has become unwritable.
        """
        if point.step <= self._last_step:
            return
        psnr_db = point.psnr_db or {}
        cells = [
            str(point.step),
            f"{point.seconds:.1f}",
            _number(point.loss, "6g"),
            _number(point.learning_rate, "4g"),
            _number(point.patches_per_second, "4g"),
            *(_number(psnr_db.get(scale), "4f") for scale in self._scales),
        ]
        # One system call, so that a process that is killed leaves a whole line or none.
        with file_errors(OutputError, self._path, " cannot be written"), self._path.open("ab", buffering=0) as file:
            file.write(_line(cells))
        self._last_step = point.step


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, f".{form}")


def _line(cells: list[str]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(cells)
    return text.getvalue().encode()


def _read(path: Path) -> list[dict[str, str]]:
    """Return the complete lines of a file; none of a missing file or one of another format."""
    try:
        content = path.read_bytes().decode()
    except (OSError, ValueError):
        return []
    # A full disk or a loss of power can leave the last line incomplete.
    whole = content[: content.rfind("\n") + 1]
    rows = list(csv.DictReader(io.StringIO(whole), restval=""))
    return [{name: row[name] for name in row if name} for row in rows if row.get("step", "").isdecimal()]
