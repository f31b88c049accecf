"""Power by ``tegrastats``, NVIDIA's monitor for Jetson boards, which writes a line of text at an interval.

Its form differs by release. Those seen, all of which are read (tests/benchmarks/recorded has lines of boards):

- GPU clock: ``GR3D_FREQ 10%@1300``, ``63%@[621]``, ``12%@[1300,1300]``, on an idle Thor ``@[1000,1000,1000]``; without
  root ``GR3D_FREQ 0%`` alone, on some releases.
- Rails: now, average, and from JetPack 7 on largest: ``VDD_IN 4824mW/4824mW``, ``VDD_GPU 37939mW/8660mW/37939mW``; no
  unit before JetPack 5 (``POM_5V_IN 1750/1628``), below 0 at times (``VDD_GPU -392mW/-392mW``).
- Temperatures: ``GPU@48.5C``, ``gpu@47.6C/48.1C`` (now and largest); ``-256C`` of what is off.
"""

from __future__ import annotations

import contextlib
import math
import os
import re
import select
import subprocess
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from threading import Event
from typing import IO

from overnet.benchmarks.power.jetson import JetsonBoard
from overnet.benchmarks.power.power_rails import total_power
from overnet.benchmarks.power.source import PowerSource, Reading, is_temperature
from overnet.errors import BackendError

_NUMBER = r"-?[0-9]+(?:\.[0-9]+)?"
# A unit or a slash at least: a number alone is some clock.
_RAIL = re.compile(rf"({_NUMBER})(?:mW(?:/.*)?|/{_NUMBER})")
_TEMPERATURE = re.compile(rf"([A-Za-z]\w*)@({_NUMBER})C(?:/.*)?")
# On boards before Orin this one says the same number always.
_NO_SENSOR = "pmic"
_LONGEST_LINE_BYTES = 1 << 16
_SILENCE_SECONDS = 10.0
_POLL_SECONDS = 0.1
_END_SECONDS = 2.0


@dataclass(frozen=True)
class TegrastatsLine:
    """What one line says.

    Attributes:
        rails_milliwatts: at that moment, by rail.
        temperatures_celsius: by sensor, in small letters.
        clocks_mhz: of ``"gpu"`` (its fastest cluster) and ``"cpu"`` (mean of the cores that are on).
    """

    rails_milliwatts: dict[str, float] = field(default_factory=dict)
    temperatures_celsius: dict[str, float] = field(default_factory=dict)
    clocks_mhz: dict[str, float] = field(default_factory=dict)


def parse_line(line: str) -> TegrastatsLine:
    """Read a line; whatever is not known in it is passed over, and nothing is found in what is no such line."""
    found = TegrastatsLine()
    words = line.split()
    for word in words:
        temperature = _TEMPERATURE.fullmatch(word)
        if temperature and _is_sensor(temperature[1].lower(), float(temperature[2])):
            found.temperatures_celsius[temperature[1].lower()] = float(temperature[2])
    for name, value in pairwise(words):
        rail = _RAIL.fullmatch(value)
        if rail and name[0].isalpha() and math.isfinite(float(rail[1])):
            found.rails_milliwatts[name] = float(rail[1])
        clocks = [float(number) for number in _clocks(value)] if name in ("GR3D_FREQ", "CPU") else []
        if clocks and all(map(math.isfinite, clocks)):
            found.clocks_mhz["cpu" if name == "CPU" else "gpu"] = (
                sum(clocks) / len(clocks) if name == "CPU" else max(clocks)
            )
    return found


def _is_sensor(name: str, celsius: float) -> bool:
    return name != _NO_SENSOR and is_temperature(celsius) and math.isfinite(celsius)


def _clocks(value: str) -> list[str]:
    """The clocks in ``7%@306``, ``@[1000,1000]``, ``[2%@972,off]`` or ``[0%,5%]@2601``."""
    several = re.search(r"@\[([0-9,]+)\]", value)
    return re.findall(r"[0-9]+", several[1]) if several else re.findall(r"@([0-9]+)", value)


class TegrastatsSource(PowerSource):
    """``tegrastats``, which is started for each recording and ended with it.

    Args:
        board: says what tegrastats does not.
        command: the program.
        covers: see `PowerSource`.
    """

    def __init__(self, board: JetsonBoard, command: str, covers: str) -> None:
        super().__init__("tegrastats", covers, board.power_mode())
        self._board = board
        self._command = command

    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """See `PowerSource.readings`."""
        with contextlib.closing(_lines(self._command, stop, interval_seconds)) as lines:
            for line in lines:
                found = parse_line(line)
                total = total_power(found.rails_milliwatts)
                yield Reading(
                    watts=None if total is None else total[0],
                    clocks_mhz={**self._board.clocks_mhz(), **found.clocks_mhz},
                    temperatures_celsius=found.temperatures_celsius,
                    slowed_by=self._board.slowed_by(),
                )

    def slowdowns(self) -> dict[str, int] | None:
        """See `PowerSource.slowdowns`."""
        return self._board.slowdowns()


def find_tegrastats(board: JetsonBoard, command: str = "tegrastats") -> TegrastatsSource:
    """``tegrastats``, tried once.

    Raises:
        BackendError: it is not here, or says nothing of power.
    """
    with contextlib.closing(_lines(command, Event(), _POLL_SECONDS)) as lines:
        total = total_power(parse_line(next(lines)).rails_milliwatts)
    if total is None:
        raise BackendError(f"{command} says nothing of power on this board")
    return TegrastatsSource(board, command, total[1])


def _lines(command: str, stop: Event, interval_seconds: float) -> Generator[str, None, None]:
    """What the program writes, line by line, until told to stop; it is ended with the generator.

    Raises:
        BackendError: it cannot be started, ended by itself, or says nothing any more.
    """
    milliseconds = max(1, round(1000 * interval_seconds))
    try:
        # In a session of its own Ctrl-C does not reach it: it is ended here, after what was measured is kept.
        process = subprocess.Popen(
            [command, "--interval", str(milliseconds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise BackendError(f"{command} cannot be started ({error.strerror or error})") from error
    try:
        assert process.stdout is not None
        yield from _read_lines(process.stdout, command, stop, _SILENCE_SECONDS + 2 * interval_seconds)
    finally:
        _end(process)


def _read_lines(output: IO[bytes], command: str, stop: Event, patience_seconds: float) -> Iterator[str]:
    rest, last = b"", time.monotonic()
    while not stop.is_set():
        # Not a blocking read, which nothing could interrupt should the program hang.
        if not select.select([output], [], [], _POLL_SECONDS)[0]:
            if time.monotonic() - last > patience_seconds:
                raise BackendError(f"{command} has said nothing for {patience_seconds:.0f} s")
            continue
        part = os.read(output.fileno(), _LONGEST_LINE_BYTES)
        if not part:
            raise BackendError(f"{command} ended by itself")
        *lines, rest = (rest + part).split(b"\n")
        rest = rest[-_LONGEST_LINE_BYTES:]
        last = time.monotonic() if lines else last
        for line in lines:
            yield line.decode("utf-8", "replace")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    finally:
        if process.stdout is not None:
            process.stdout.close()
