"""What programs and kernels of real machines said, as files (tests/benchmarks/power/recorded)."""

import stat
import sys
from pathlib import Path

RECORDED = Path(__file__).parents[1] / "benchmarks/power/recorded"


def lay_out(name: str, root: Path) -> Path:
    """Write a recorded ``sysfs_*.txt`` out as the files that it lists, below a folder; returns that."""
    for line in (RECORDED / name).read_text(encoding="utf-8").splitlines():
        path, value = line.split(": ", 1)
        put(root, path, value.replace(" nvidia,", "\0nvidia,"))
    return root


def put(root: Path, path: str, value: object) -> None:
    """Write one file as the kernel would."""
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    # At once, as in the kernel: who reads meanwhile finds the old value or the new one, and never half of one.
    fresh = file.with_name(f".{file.name}")
    fresh.write_text(f"{value}\n", encoding="utf-8")
    fresh.replace(file)


def write_program(path: Path, code: str) -> str:
    """A program of its own, in Python; returns its name as a command."""
    path.write_text(f"#!{sys.executable}\n{code}\n", encoding="utf-8")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)
