"""Power through jtop (jetson-stats), whose service reads a Jetson's monitors: of use where nothing else may, as in a
container that the service's socket was given to.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Generator, Iterator, Mapping
from threading import Event
from typing import Any

from overnet.benchmarks.power.jetson import JetsonBoard
from overnet.benchmarks.power.power_rails import total_power
from overnet.benchmarks.power.source import PowerSource, Reading
from overnet.errors import BackendError, MissingDependency

# The service reads once a second unless its first client asks for more.
_SLOWEST_SECONDS = 1.0
_END_SECONDS = 5.0


class JtopSource(PowerSource):
    """jtop's service.

    Args:
        board: says what jtop is not asked.
        covers, power_mode: see `PowerSource`.
    """

    def __init__(self, board: JetsonBoard, covers: str, power_mode: str | None) -> None:
        super().__init__("jtop", covers, power_mode)
        self._board = board

    def readings(self, stop: Event, interval_seconds: float) -> Generator[Reading, None, None]:
        """See `PowerSource.readings`."""
        with _connected(interval_seconds) as client:
            # Waits for the service's next values, for a few intervals at most.
            while _is_ok(client):
                total = total_power(rails_of(client.power))
                yield Reading(
                    watts=None if total is None else total[0],
                    clocks_mhz={**self._board.clocks_mhz(), **_clocks(client.gpu)},
                    temperatures_celsius=_temperatures(client.temperature),
                    slowed_by=self._board.slowed_by(),
                )
                if stop.is_set():
                    return
            raise BackendError("jtop's service does not answer any more")

    def slowdowns(self) -> dict[str, int] | None:
        """See `PowerSource.slowdowns`."""
        return self._board.slowdowns()


def find_jtop(board: JetsonBoard) -> JtopSource:
    """jtop's service, tried once.

    Raises:
        BackendError: it does not run, does not let us in, or says nothing of power.
        MissingDependency: jetson-stats is not installed.
    """
    with _connected(_SLOWEST_SECONDS) as client:
        total = total_power(rails_of(client.power)) if _is_ok(client) else None
        mode = None if client.nvpmodel is None else str(client.nvpmodel)
    if total is None:
        raise BackendError("jtop's service says nothing of power")
    return JtopSource(board, total[1], mode)


def rails_of(power: Mapping[str, Any]) -> dict[str, float]:
    """Milliwatts by rail of jtop's property ``power``.

    It keeps the rail that all others hang on apart, as ``tot`` with its ``name``; without a name ``tot`` is the sum of
    all rails, in which AGX Orin's memory counts twice, so that it is not taken.
    """
    rails = {name: float(values["power"]) for name, values in power.get("rail", {}).items() if "power" in values}
    total = power.get("tot", {})
    if "name" in total and "power" in total:
        rails[total["name"]] = float(total["power"])
    return rails


def _temperatures(temperature: Mapping[str, Any]) -> dict[str, float]:
    return {
        name: float(values["temp"]) for name, values in temperature.items() if values.get("online") and "temp" in values
    }


def _clocks(gpus: Mapping[str, Any]) -> dict[str, float]:
    kilohertz = [values.get("freq", {}).get("cur") for values in gpus.values()]
    known = [float(value) for value in kilohertz if value]
    return {"gpu": max(known) / 1000} if known else {}


@contextlib.contextmanager
def _connected(interval_seconds: float) -> Iterator[Any]:
    try:
        jtop = importlib.import_module("jtop")
    except ImportError as error:
        raise MissingDependency("jtop is not installed: pip install jetson-stats") from error
    # A thread that is not started yet; start() connects.
    client = jtop.jtop(interval=min(_SLOWEST_SECONDS, interval_seconds))
    try:
        client.start()
    except (jtop.JtopException, OSError) as error:
        raise BackendError(f"jtop: {' '.join(str(error).split())}") from error
    try:
        yield client
    finally:
        client.close()
        client.join(_END_SECONDS)


def _is_ok(client: Any) -> bool:
    """Whether there are new values; waits for them.

    Raises:
        BackendError: the service is gone.
    """
    jtop = importlib.import_module("jtop")
    try:
        return bool(client.ok())
    except (jtop.JtopException, OSError, EOFError) as error:
        raise BackendError(f"jtop: {' '.join(str(error).split())}") from error
