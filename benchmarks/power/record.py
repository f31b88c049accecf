"""Power, clocks and temperatures while something runs: find the machine's power source, read it in a thread, summarise.

Example::

    source = find_source(None)
    idle = idle_watts(source, 3.0)
    with record(source) as recording:
        ...
    power = recording.power(images=100, seconds=10.0, idle_watts=idle)
"""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean

from overnet.benchmarks.power.jetson import find_board, find_rails
from overnet.benchmarks.power.nvml import find_nvml
from overnet.benchmarks.power.rapl import find_rapl
from overnet.benchmarks.power.source import PowerSource, Reading
from overnet.benchmarks.results import Power
from overnet.errors import OverNetError
from overnet.words import counted

# Time limit of a source for its first reading, and for its end.
_PATIENCE_SECONDS = 30.0


def find_source(gpu: int | None, *, root: Path = Path("/"), nvpmodel: str = "nvpmodel") -> PowerSource:
    """Find what the power drawn by this machine can be read from.

    On a Jetson that is the whole board, whatever runs, by its monitors in sysfs. Elsewhere it is the device that
    computes: the graphics card by NVML, or the processor by RAPL.

    Args:
        gpu: the GPU that computes, as CUDA numbers them; None if the CPU computes.
        root: of the file system.
        nvpmodel: a Jetson's command that prints its power mode.

    Raises:
        BackendError: this machine does not report its power; the message says why.
        MissingDependency: the package that reads NVML is not installed.
    """
    board = find_board(root, nvpmodel)
    if board is not None:
        return find_rails(board)
    return find_rapl(root) if gpu is None else find_nvml(gpu)


class Recording:
    """The readings of a source while something runs; see `record`.

    Attributes:
        failure: why there are no figures, in one line; None if there are.
    """

    def __init__(self, source: PowerSource, interval_seconds: float) -> None:
        self.failure: str | None = None
        self._source = source
        self._interval_seconds = interval_seconds
        self._readings: list[Reading] = []
        self._defect: BaseException | None = None
        self._stop = threading.Event()
        self._started = threading.Event()
        # A daemon, because a driver that hangs must not keep the program from ending.
        self._thread = threading.Thread(target=self._read, name=f"power by {source.name}", daemon=True)
        self._slowdowns_before = source.slowdowns()
        self._slowdowns_after = self._slowdowns_before

    def start(self) -> None:
        """Start, and wait for the first reading, so that the readings enclose what runs next."""
        self._thread.start()
        if not self._started.wait(_PATIENCE_SECONDS):
            self.failure = f"{self._source.name} gave no reading in {_PATIENCE_SECONDS:.0f} s"

    def stop(self) -> None:
        """Make the last reading and end the thread."""
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(_PATIENCE_SECONDS)
        if self._thread.is_alive():
            self.failure = f"{self._source.name} hangs"
        self._slowdowns_after = self._source.slowdowns()
        if self._defect is not None:
            raise self._defect

    def _read(self) -> None:
        try:
            with contextlib.closing(self._source.readings(self._stop, self._interval_seconds)) as readings:
                for reading in readings:
                    self._readings.append(reading)
                    self._started.set()
        except OverNetError as error:
            self.failure = str(error)
        except BaseException as error:  # `stop` raises it in the caller's thread
            self._defect = error
        finally:
            self._started.set()

    def power(self, *, images: int, seconds: float, idle_watts: float | None = None) -> Power | None:
        """Summarise a finished recording; None if there are no figures (`failure` says why).

        Args:
            images: the number of images done.
            seconds: the time they took.
            idle_watts: measured before; it is recorded, but not subtracted.

        Raises:
            ValueError: `images` or `seconds` is not positive.
        """
        if images < 1 or seconds <= 0:
            raise ValueError(f"{counted(images, 'image')} in {seconds} s; at least one, in some time, is needed")
        readings = list(self._readings)
        watts = self._watts(readings)
        if watts is None:
            return None
        mean, largest = watts
        return Power(
            source=self._source.name,
            covers=self._source.covers,
            samples=sum(reading.watts is not None or reading.joules is not None for reading in readings),
            mean_watts=mean,
            largest_watts=largest,
            joules_per_image=mean * seconds / images,
            idle_watts=idle_watts,
            clocks_mhz=_by_name([reading.clocks_mhz for reading in readings], fmean),
            temperatures_celsius=_by_name([reading.temperatures_celsius for reading in readings], max),
            power_mode=self._source.power_mode,
            throttled=self._throttled(readings),
        )

    def mean_watts(self) -> float | None:
        """Return the mean power of a finished recording; None if there are no figures (`failure` says why)."""
        watts = self._watts(list(self._readings))
        return None if watts is None else watts[0]

    def _watts(self, readings: list[Reading]) -> tuple[float, float] | None:
        if self.failure is None:
            watts = energy_watts(readings, self._interval_seconds) or momentary_watts(readings)
            if watts is not None:
                return watts
            self.failure = f"{self._source.name} gave no figures, or the same one all the time"
        return None

    def _throttled(self, readings: list[Reading]) -> list[str] | None:
        seen = [reading.slowed_by for reading in readings if reading.slowed_by is not None]
        before, after = self._slowdowns_before, self._slowdowns_after
        if not seen and after is None:
            return None
        counts = Counter(words for words_at_once in seen for words in words_at_once)
        found = [f"{words}, in {100 * count / len(seen):.0f}% of the samples" for words, count in counts.most_common()]
        for words, count in (after or {}).items():
            times = count - (before or {}).get(words, 0)
            if times > 0:
                found.append(f"{words}, counted {counted(times, 'time')}")
        return found


@contextlib.contextmanager
def record(source: PowerSource, interval_seconds: float = 0.1) -> Iterator[Recording]:
    """Read a source in a thread while the block runs.

    A source that fails does not disturb the block: `Recording.failure` says why.
    """
    recording = Recording(source, interval_seconds)
    try:
        recording.start()
        yield recording
    finally:
        recording.stop()


def idle_watts(source: PowerSource, seconds: float) -> float | None:
    """Return the mean power while this program sleeps for some seconds; None if the source fails."""
    with record(source) as recording:
        time.sleep(seconds)
    return recording.mean_watts()


def energy_watts(readings: Sequence[Reading], interval_seconds: float) -> tuple[float, float] | None:
    """Return mean and largest power in watts by an energy counter; None if there is none or it does not change.

    Args:
        interval_seconds: between readings; pairs that are much closer are ignored for the largest power.
    """
    points = [(reading.at_seconds, reading.joules) for reading in readings if reading.joules is not None]
    if len(points) < 2 or points[-1][0] <= points[0][0] or points[-1][1] <= points[0][1]:
        return None
    mean = (points[-1][1] - points[0][1]) / (points[-1][0] - points[0][0])
    # Counters are updated in steps, of up to 0.1 s on graphics cards; those also report a momentary power.
    momentary = [reading.watts for reading in readings if reading.watts is not None]
    between = [
        (joules - earlier_joules) / (at - earlier)
        for (earlier, earlier_joules), (at, joules) in pairwise(points)
        if at - earlier >= interval_seconds / 2
    ]
    return mean, max([mean, *(momentary or between)])


def momentary_watts(readings: Sequence[Reading]) -> tuple[float, float] | None:
    """Return the time-weighted mean and the largest of the momentary powers in watts; None without any."""
    points = [(reading.at_seconds, reading.watts) for reading in readings if reading.watts is not None]
    if not points:
        return None
    largest = max(watts for _, watts in points)
    seconds = points[-1][0] - points[0][0]
    if seconds <= 0:
        return points[0][1], largest
    joules = sum((at - earlier) * (watts + before) / 2 for (earlier, before), (at, watts) in pairwise(points))
    return joules / seconds, largest


def _by_name(values: Sequence[Mapping[str, float]], summarise: Callable[[list[float]], float]) -> dict[str, float]:
    """Summarise the values of each name over all readings that have it."""
    names = dict.fromkeys(name for each in values for name in each)
    return {name: summarise([each[name] for each in values if name in each]) for name in names}
