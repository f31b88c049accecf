"""A Jetson board's power rails, clocks, temperatures and throttling, read from sysfs without root.

The names of the files, by release (NVIDIA's developer guides, and listings of boards):

- GPU clock: ``/sys/class/devfreq/17000000.ga10b`` (JetPack 5), ``17000000.gpu`` (6 and 7 on Orin), ``17000000.gv11b``
  (Xavier), ``gpu-gpc-0`` (Thor).
- Thermal throttling: cooling devices such as ``gpu-throttle-alert`` or ``devfreq-17000000.gpu``, whose state is above 0
  while it lasts. Fans are cooling devices too, and ``hot-surface-alert`` only warns about the case.
- Over-current throttling: counters ``oc*_event_cnt`` of the monitor ``soctherm_oc``, on Orin and Thor.
"""

import contextlib
import re
import subprocess
from collections.abc import Generator, Mapping
from pathlib import Path
from threading import Event

from overnet.benchmarks.power.source import (
    PowerSource,
    Reading,
    cpu_clocks_mhz,
    hardware_monitors,
    paced,
    read_celsius,
    read_number,
)
from overnet.errors import BackendError
from overnet.system.environment import read_text

_GPU_CLOCKS = ("*.gpu", "*.ga10b", "*.gv11b", "*.gp10b", "gpu-gpc-*")
_OVERCURRENT = {
    "oc1_event_cnt": "voltage too low",
    "oc2_event_cnt": "average current too high",
    "oc3_event_cnt": "momentary current too high",
}
# The meaning of an active cooling device, by a part of its name; others do not slow the board down.
_SLOWING = {
    "throttle-alert": "heat ({})",
    "cpufreq": "heat (CPU clock reduced)",
    "devfreq": "heat (GPU clock reduced)",
}
_CHANNELS = (1, 2, 3)
_DEVICE_TREES = ("proc/device-tree", "sys/firmware/devicetree/base")
_INPUT_RAIL = "VIN"
_NVPMODEL_SECONDS = 10
# Rails that supply all others. VIN is on Thor's carrier board (its INA238), VDD_IN on modules of the Nano and NX sizes,
# POM_5V_IN on the first Nano.
_TOTALS = {
    "VIN": "the module and its carrier board (VIN)",
    "VDD_IN": "the whole module (VDD_IN)",
    "POM_5V_IN": "the whole module (POM_5V_IN)",
}
# AGX Orin's memory is supplied by its 5 V input, which is a measured rail too; counting both would count it twice.
_PARTS_OF = {"VDDQ_VDD2_1V8AO": "VIN_SYS_5V0"}


class JetsonBoard:
    """A Jetson's settings.

    Args:
        root: of the file system.
        nvpmodel: the command that prints the power mode.
    """

    def __init__(self, root: Path, nvpmodel: str = "nvpmodel") -> None:
        self.root = root
        self._nvpmodel = nvpmodel
        devfreq = root / "sys/class/devfreq"
        self.gpu_folders = sorted({folder for pattern in _GPU_CLOCKS for folder in devfreq.glob(pattern)})

    def power_mode(self) -> str | None:
        """Return the power mode's name, such as ``"MAXN"``; its number differs between boards."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            asked = subprocess.run([self._nvpmodel, "-q"], capture_output=True, timeout=_NVPMODEL_SECONDS, check=False)
            return parse_power_mode(asked.stdout.decode("utf-8", "replace"))
        return None

    def clocks_are_fixed(self) -> bool | None:
        """Whether the clocks of GPU and CPU are fixed, as by ``jetson_clocks``; None if that cannot be read."""
        policies = sorted((self.root / "sys/devices/system/cpu/cpufreq").glob("policy*"))
        limits = [(read_number(folder / "min_freq"), read_number(folder / "max_freq")) for folder in self.gpu_folders]
        limits += [
            (read_number(folder / "scaling_min_freq"), read_number(folder / "scaling_max_freq")) for folder in policies
        ]
        if not limits or any(value is None for pair in limits for value in pair):
            return None
        return all(lowest == highest for lowest, highest in limits)

    def settings(self) -> dict[str, str]:
        """Return the settings that affect the speed, by name."""
        fixed, mode = self.clocks_are_fixed(), self.power_mode()
        found = {"power mode": mode, "jetson_clocks": None if fixed is None else "on" if fixed else "off"}
        return {name: value for name, value in found.items() if value is not None}


class RailSource(PowerSource):
    """The board's power monitors (INA3221 and, on Thor's carrier board, INA238), clocks, temperatures and throttling.

    Args:
        board: the board.
        rails: the files of each rail.
        covers: see `PowerSource`.
    """

    def __init__(self, board: JetsonBoard, rails: dict[str, list[Path]], covers: str) -> None:
        super().__init__("INA238" if _INPUT_RAIL in rails else "INA3221", covers, board.power_mode())
        self._board, self._rails = board, rails
        thermal = board.root / "sys/class/thermal"
        # In the short form: gpu of gpu-thermal or JetPack 5's GPU-therm.
        self._sensors = [
            (re.sub(r"-therm(al)?$", "", (read_text(zone / "type") or zone.name).lower()), zone / "temp")
            for zone in sorted(thermal.glob("thermal_zone*"))
        ]
        self._slowing = [
            (words.format(kind), device / "cur_state")
            for device in sorted(thermal.glob("cooling_device*"))
            for part, words in _SLOWING.items()
            if part in (kind := read_text(device / "type"))
        ]
        self._overcurrent = [
            (words, folder / name)
            for _, folder in hardware_monitors(board.root)
            for name, words in _OVERCURRENT.items()
            if (folder / name).exists()
        ]

    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """See `PowerSource.readings`."""
        yield from paced(self._read, stop, interval_seconds)

    def _read(self) -> Reading:
        total = total_power(_read_rails(self._rails))
        hertz = [value for folder in self._board.gpu_folders if (value := read_number(folder / "cur_freq")) is not None]
        states = [(words, state) for words, file in self._slowing if (state := read_number(file)) is not None]
        return Reading(
            watts=None if total is None else total[0],
            # Of Thor's three GPU clusters, the fastest.
            clocks_mhz={**({"gpu": max(hertz) / 1e6} if hertz else {}), **cpu_clocks_mhz(self._board.root)},
            temperatures_celsius=read_celsius(self._sensors),
            slowed_by=frozenset(words for words, state in states if state > 0) if states else None,
        )

    def slowdowns(self) -> dict[str, int] | None:
        """See `PowerSource.slowdowns`."""
        counts = {words: count for words, file in self._overcurrent if (count := read_number(file)) is not None}
        return counts or None


def find_board(root: Path, nvpmodel: str = "nvpmodel") -> JetsonBoard | None:
    """Return the board if this machine is a Jetson, else None. See `JetsonBoard` for the arguments."""
    # The name of the model does not always contain "Jetson", as in "NVIDIA Orin Nano Developer Kit".
    chips = [read_text(root / folder / "compatible") for folder in _DEVICE_TREES]
    return JetsonBoard(root, nvpmodel) if any("nvidia,tegra" in chip for chip in chips) else None


def find_rails(board: JetsonBoard) -> RailSource:
    """Find the board's power monitors.

    Raises:
        BackendError: there are none, or they cannot be read.
    """
    rails = _rails(board.root)
    if not rails:
        raise BackendError("no power monitor (INA3221) is in /sys/class/hwmon")
    total = total_power(_read_rails(rails))
    if total is None:
        raise BackendError("the power monitors (INA3221) in /sys/class/hwmon cannot be read")
    return RailSource(board, rails, total[1])


def total_power(rails_milliwatts: Mapping[str, float]) -> tuple[float, str] | None:
    """Return the power of a board in watts and a description of what it covers; None if no rail is known.

    Args:
        rails_milliwatts: by rail, named as in NVIDIA's device trees. A rail that is off may be slightly negative.
    """
    for name, words in _TOTALS.items():
        if name in rails_milliwatts:
            return rails_milliwatts[name] / 1000, words
    counted = {name: power for name, power in rails_milliwatts.items() if _PARTS_OF.get(name) not in rails_milliwatts}
    if not counted:
        return None
    return sum(counted.values()) / 1000, f"the sum of the module's rails {', '.join(sorted(counted))}"


def parse_power_mode(text: str) -> str | None:
    """Return the mode's name in the output of ``nvpmodel -q``; None if it is missing."""
    found = re.search(r"NV Power Mode: *(\S[^\r\n]*)", text)
    return found[1].strip() if found else None


def _rails(root: Path) -> dict[str, list[Path]]:
    """Return the files of each rail: one that holds microwatts, or millivolts and milliamperes."""
    rails: dict[str, list[Path]] = {}
    for driver, folder in hardware_monitors(root):
        if driver == "ina238":
            # It has no label; on Thor's carrier board it measures the whole board, which NVIDIA calls VIN.
            rails[_INPUT_RAIL] = [folder / "power1_input"]
        if driver != "ina3221":
            continue
        # Channels 4 to 7 are shunt voltages and their sum.
        for channel in _CHANNELS:
            label = read_text(folder / f"in{channel}_label")
            if label and label != "NC":
                rails[label] = [folder / f"in{channel}_input", folder / f"curr{channel}_input"]
    return rails


def _read_rails(rails: dict[str, list[Path]]) -> dict[str, float]:
    """Read milliwatts by rail; return none at all if one cannot be read, because a sum without it would be wrong."""
    milliwatts = {}
    for name, files in rails.items():
        values = [read_number(file) for file in files]
        known = [value for value in values if value is not None]
        if len(known) < len(files):
            return {}
        milliwatts[name] = known[0] / 1000 if len(known) == 1 else known[0] * known[1] / 1000
    return milliwatts
