"""The connection to a Ray cluster, and calls of functions on its machines."""

from __future__ import annotations

import io
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil

from overnet.errors import InputError, InterruptedRun, OverNetError, one_line, printable, require
from overnet.files.temporary_folder import temporary_folder
from overnet.runtime.cluster.parcel import ChangedError, NotHereError, Parcel

# How often a task is tried. Ray itself repeats one that failed, or whose machine was lost.
_ATTEMPTS = 3
_CONNECT_SECONDS = 5.0
_POLL_SECONDS = 0.1
# Of tasks that wait or run, for each that can run at the same time: Ray has a choice, and the store is not filled.
_TASKS_FOR_EACH_SLOT = 4
_FEWEST_TASKS = 16
# CPUs of a task: with more threads, one image takes less time, and many take more.
_MOST_CPUS = 4
# An address where nothing is.
_NOWHERE = "http://127.0.0.1:9"
# Ray would report its use, and where that is switched off report so, once for a cluster that `ray start` has started.
NO_REPORTS = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_USAGE_STATS_REPORT_URL": _NOWHERE}
_SERVERS = ("gcs_server", "raylet")  # names of Ray's processes
# What a server of HTTP/2, as Ray's is, answers with frames of this kind.
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
_HTTP2_SETTINGS = 4


@dataclass
class Call:
    """A call of a function as a task.

    Args:
        function: of a module that the other machines have, too.
        arguments: of the function.
        name: of what it works on, for messages.
        repeats_errors: whether it is repeated where it raised an error; where its machine was lost, it always is.
        parcels: the files in the arguments.
        item: anything, for the caller.
    """

    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    name: str
    repeats_errors: bool = True
    parcels: list[Parcel] = field(default_factory=list)
    item: Any = None


class Cluster:
    """A connection to a Ray cluster; a context manager. A process has one at a time.

    Args:
        address: of the cluster's head, HOST:PORT; ``"local"`` for one of this machine alone; or ``"auto"`` for the one
            that this machine belongs to, or, where there is none, one of this machine alone.
        wants_gpu: whether tasks need a GPU; None takes GPUs if there are any.
        threads: CPU threads of a task; None for up to four.

    Attributes:
        on_gpu: whether tasks ask for a GPU; may be set to False.

    Raises:
        MissingDependency: Ray is not installed.
        InputError: there is no such cluster, or no GPU in it.
    """

    def __init__(self, address: str, *, wants_gpu: bool | None, threads: int | None) -> None:
        # Before Ray is imported: it reports its use otherwise.
        os.environ.update(NO_REPORTS)
        self.ray: Any = require("ray", extra="cluster", purpose="--cluster")
        self._threads = threads
        self._remotes: dict[Callable[..., Any], Any] = {}
        self._closing = ExitStack()
        self._closing.enter_context(redirect_stdout(_StdoutWithoutRay()))
        try:
            self._connect(address)
            resources = self.ray.cluster_resources()
            if wants_gpu and not resources.get("GPU"):
                raise InputError(f"{printable(address)}: the cluster has no GPU, which this backend needs")
            if not resources.get("CPU"):
                raise InputError(f"{printable(address)}: the cluster has no CPU for tasks")
            self.on_gpu = bool(resources.get("GPU")) if wants_gpu is None else wants_gpu
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Cluster:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, and with it all tasks; a cluster of this machine alone ends."""
        with redirect_stdout(io.StringIO()):  # Ray prints there what it has gathered of its messages
            self._closing.close()

    def _connect(self, address: str) -> None:
        kept = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
        head = self._head(address)
        try:
            if head is not None:
                self._closing.callback(self.ray.shutdown)
                self.ray.init(head, **options)
                return
            # Not in the system's folder for all clusters: nothing of it is left then.
            folder = str(self._closing.enter_context(temporary_folder()))
            self._closing.callback(_end_local, self.ray, folder)
            with _environment_of_local():
                self.ray.init("local", _temp_dir=folder, include_dashboard=False, **options)
        except Exception as error:
            raise InputError(f"{printable(address)}: Ray cannot connect to the cluster: {one_line(error)}") from error
        finally:
            # Ray has handlers of its own.
            if threading.current_thread() is threading.main_thread():
                for number, handler in kept.items():
                    signal.signal(number, handler)

    def _head(self, address: str) -> str | None:
        """Return the address of a cluster's head, where one answers; None for a cluster of this machine alone.

        Ray's own "auto" joins whatever cluster has processes here, also that of another run, which ends with that; and
        it waits a minute for one that has ended.

        Raises:
            InputError: no cluster answers at the address that is given.
        """
        if address == "auto":
            address = os.environ.get("RAY_ADDRESS", "")
            if address in ("", "auto"):
                # What `ray start` has noted; it stays where the cluster was killed.
                noted = self.ray._private.utils.read_ray_address()
                try:
                    _check_address(noted or "")
                except InputError:
                    return None
                return str(noted)
        if address == "local":
            return None
        _check_address(address)
        return address

    @property
    def cpus(self) -> int:
        """Return the CPUs that a task asks for."""
        if self.on_gpu:
            return self._threads or 1
        machines = [int(node["Resources"].get("CPU", 0)) for node in self.ray.nodes() if node["Alive"]]
        fewest = min((cpus for cpus in machines if cpus), default=1)
        return min(self._threads or _MOST_CPUS, fewest)

    @property
    def slots(self) -> int:
        """Return how many tasks can run at the same time."""
        resources = self.ray.cluster_resources()
        by_cpus = int(resources.get("CPU", 0)) // self.cpus
        return max(1, min(by_cpus, int(resources.get("GPU", 0))) if self.on_gpu else by_cpus)

    def run(
        self, calls: Iterable[Call], *, ended: Callable[[], bool] = lambda: False
    ) -> Generator[tuple[Call, Any], None, None]:
        """Yield the results of calls, each as soon as it is there, or the error of one that failed for good.

        Args:
            calls: read as far as tasks are wanted.
            ended: tells whether to stop.
        """
        waiting: dict[Any, Call] = {}
        coming, is_more = iter(calls), True
        try:
            while (is_more or waiting) and not ended():
                while is_more and len(waiting) < max(_FEWEST_TASKS, _TASKS_FOR_EACH_SLOT * self.slots):
                    call = next(coming, None)
                    is_more = call is not None
                    if call is not None:
                        waiting[self._submit(call)] = call
                done = self.ray.wait(list(waiting), timeout=_POLL_SECONDS)[0] if waiting else []
                for reference in done:
                    call = waiting.pop(reference)
                    result = self._result(reference, call)
                    if isinstance(result, NotHereError):
                        try:
                            for parcel in call.parcels:
                                parcel.send(self.ray)
                        except ChangedError as error:
                            yield call, error
                        else:
                            waiting[self._submit(call)] = call
                        continue
                    yield call, result
        finally:
            for reference in waiting:
                with suppress(Exception):
                    self.ray.cancel(reference, force=True)

    def call(self, call: Call) -> Any:
        """Return the result of one call.

        Raises:
            OverNetError: it failed.
        """
        for _, result in self.run([call]):
            if isinstance(result, OverNetError):
                raise result
            return result
        raise InterruptedRun("interrupted")

    def _submit(self, call: Call) -> Any:
        if call.function not in self._remotes:
            self._remotes[call.function] = self.ray.remote(call.function)
        options = {"num_cpus": self.cpus, "num_gpus": 1 if self.on_gpu else 0}
        remote = self._remotes[call.function].options(
            **options, max_retries=_ATTEMPTS - 1, retry_exceptions=call.repeats_errors, name=f"overnet: {call.name}"
        )
        return remote.remote(*call.arguments)

    def _result(self, reference: Any, call: Call) -> Any:
        try:
            return self.ray.get(reference)
        except self.ray.exceptions.RayError as error:
            cause = getattr(error, "cause", None) or error
            reason = one_line(cause, line=0)
            if isinstance(error, self.ray.exceptions.RuntimeEnvSetupError) or "No module named 'overnet" in str(error):
                return InputError("the cluster's machines need OverNet, too: pip install 'overnet[cluster]' on each")
            if not call.repeats_errors and isinstance(cause, OverNetError):
                return cause
            return OverNetError(f"{call.name}: failed {_ATTEMPTS} times on the cluster, the last time with: {reason}")


@contextmanager
def _environment_of_local() -> Iterator[None]:
    """Let the processes that are started in the block reach no server by HTTP, and talk to no other process.

    One of Ray's asks services of clouds where it runs, also where it is not to report that. Ray itself uses no proxy.
    Without a token given, Ray keeps one in the user's home folder.
    """
    proxies = {"http_proxy": _NOWHERE, "https_proxy": _NOWHERE, "no_proxy": ""}
    ours = {**proxies, **{name.upper(): value for name, value in proxies.items()}}
    ours["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    kept = {name: os.environ.get(name) for name in ours}
    try:
        os.environ.update(ours)
        yield
    finally:
        for name, value in kept.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _end_local(ray: Any, folder: str) -> None:
    """End a cluster of this machine alone, whose processes have a folder in their command lines, also half started.

    Ray itself takes more than a second, and may leave processes.
    """
    ours: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if any(folder in word for word in child.cmdline()):
                ours += [*child.children(recursive=True), child]
    # The others first: without its agents the server of a machine ends at once.
    for is_server in (False, True):
        for process in ours:
            with suppress(psutil.Error):
                if (process.name() in _SERVERS) == is_server:
                    process.kill()
        if not is_server:
            ray.shutdown()


def _check_address(address: str) -> None:
    """Report an address where no cluster is, which Ray does after minutes.

    Raises:
        InputError: nothing answers there, or something else than Ray.
    """
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not colon or not host or not port.isdecimal():
        raise InputError(
            f"--cluster is {address!r}; it can be auto, local, or the address of a cluster's head as HOST:PORT"
        )
    name = printable(address)
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS) as connection:
            if os.environ.get("RAY_USE_TLS", "0").lower() in ("1", "true"):
                return
            connection.settimeout(_CONNECT_SECONDS)
            connection.sendall(_HTTP2_GREETING)
            answer = connection.recv(9)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise InputError(f"{name}: no Ray cluster answers there: {reason}") from error
    if answer[3:4] != bytes([_HTTP2_SETTINGS]):
        raise InputError(f"{name}: what answers there is no Ray cluster")


class _StdoutWithoutRay:
    """Standard output without Ray's messages on machines that are lost: it may be the result of a command."""

    def __init__(self) -> None:
        self._stdout = sys.stdout

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stdout, name)

    def write(self, text: str) -> int:
        """Write a text, unless it comes from Ray's thread for such messages."""
        return len(text) if threading.current_thread().name == "ray_listen_error_messages" else self._stdout.write(text)
