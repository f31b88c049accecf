"""Run on this machine's GPU the checks that the tests run with a stand-in for the CUDA driver.

``python -m overnet.benchmarks.gpu_checks`` builds an engine of the bundled network (or takes one, ``--model``), streams
frames through it and compares them with the CPU's results. It prints the device and the versions. The exit code is 1 if
a check fails, and 2 if there is no GPU to check.
"""

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from overnet.benchmarks.gpu_setting import (
    CheckFailed,
    Setting,
    Size,
    compare,
    frames,
    photograph_like,
    setting_for,
    stream_all,
)
from overnet.errors import BackendError, OverNetError
from overnet.files.engine_sidecar import TITLES, RuntimeName
from overnet.runtime.backends.trt.backend import TensorRtBackend
from overnet.runtime.backends.trt.cuda import Gpu, pycuda_version
from overnet.runtime.upscaler import Upscaler
from overnet.system.cuda_device import check_device
from overnet.system.environment import current_environment
from overnet.types import Image


@dataclass
class Outcome:
    """The outcome of a check."""

    name: str
    passed: bool
    detail: str
    seconds: float = 0.0


def _stream_and_compare(
    setting: Setting, upscaler: Upscaler, on_cpu: Upscaler, size: Size, count: int, seed: int = 0
) -> None:
    """Stream frames and compare each result with the CPU's."""
    reference = frames(size, count, seed=seed)

    def receive(number: int, upscaled: Image) -> None:
        compare(setting, upscaled, on_cpu(next(reference)), f"frame {number} of {size[1]}x{size[0]}")

    stream_all(upscaler, size, frames(size, count, seed=seed), receive)
    if next(reference, None) is not None:
        raise CheckFailed("frames were lost")


def every_frame_in_order(setting: Setting) -> str:
    """Check that hundreds of frames are returned in order, equal to the CPU's results."""
    with setting.expected() as on_cpu, setting.upscaler() as upscaler:
        _stream_and_compare(setting, upscaler, on_cpu, setting.size, setting.frames)
    return f"{setting.frames} frames of {setting.size[1]}x{setting.size[0]}"


def sizes_that_take_turns(setting: Setting) -> str:
    """Check alternating frames of two sizes, and consecutive streams of two sizes."""
    sizes = (setting.size, setting.other_size)
    with setting.expected() as on_cpu, setting.upscaler() as upscaler:
        for turn in range(4):
            for size in sizes:
                image = next(frames(size, 1, seed=turn))
                compare(setting, upscaler(image), on_cpu(image), f"an image of {size[1]}x{size[0]}")
        for size in sizes * 2:
            _stream_and_compare(setting, upscaler, on_cpu, size, 9)
    return " and ".join(f"{width}x{height}" for height, width in sizes)


def larger_than_the_engine_takes(setting: Setting) -> str:
    """Check that an image larger than the engine's limit is tiled without visible seams."""
    image = photograph_like(setting.too_large)
    with setting.expected() as on_cpu, setting.upscaler() as upscaler:
        found, expected = upscaler(image).astype(int), on_cpu(image).astype(int)
        notes = " ".join(upscaler.pop_notes())
    if "tiles" not in notes:
        raise CheckFailed("it was not cut into tiles")
    difference = int(np.abs(found - expected).max())
    if difference > setting.tile_levels:
        raise CheckFailed(f"tiles differ from the whole by {difference} levels, {setting.tile_levels} are allowed")
    return f"{difference} levels from the whole at most"


def nothing_is_left_behind(setting: Setting) -> str:
    """Check that many frames, and errors during a stream, leave no GPU memory allocated."""

    def fail(number: int, upscaled: Image) -> None:
        if number == 5:
            raise ZeroDivisionError

    with _acquired(setting.device) as gpu:
        # Once before measuring: libraries keep some memory for themselves.
        with setting.upscaler() as upscaler:
            upscaler(next(frames(setting.size, 1)))
        before = _free(gpu)
        for _ in range(3):
            with setting.upscaler() as upscaler:
                stream_all(upscaler, setting.size, frames(setting.size, setting.frames // 3), lambda *_: None)
                try:
                    stream_all(upscaler, setting.size, frames(setting.size, 50), fail)
                except ZeroDivisionError:
                    pass
                else:
                    raise CheckFailed("an error during the stream was lost")
        lost_bytes = before - _free(gpu)
    # Drivers allocate memory in steps of 2 MB, and other programs may use the GPU.
    if not gpu.shares_memory and lost_bytes > 16_000_000:
        raise CheckFailed(f"{lost_bytes / 1e6:.1f} MB are not released")
    return f"{lost_bytes / 1e6:.1f} MB less free than before"


def interrupted_in_the_middle(setting: Setting) -> str:
    """Check that after Ctrl-C during a stream all submitted frames are fetched, and the upscaler still works."""
    with setting.expected() as on_cpu, setting.upscaler() as upscaler:
        received: list[int] = []

        def interrupted() -> Iterator[Image]:
            yield from frames(setting.size, 40)
            raise KeyboardInterrupt

        def receive(number: int, upscaled: Image) -> None:
            received.append(number)

        try:
            stream_all(upscaler, setting.size, interrupted(), receive)
        except KeyboardInterrupt:
            pass
        else:
            raise CheckFailed("the interruption was lost")
        if received != list(range(len(received))):
            raise CheckFailed("frames came out of order")
        image = next(frames(setting.size, 1, seed=3))
        compare(setting, upscaler(image), on_cpu(image), "the image after the interruption")
    return f"{len(received)} frames fetched"


def two_upscalers_in_two_threads(setting: Setting) -> str:
    """Check two upscalers in parallel, each in its own threads."""

    def work(seed: int) -> None:
        with setting.expected() as on_cpu, setting.upscaler() as upscaler:
            _stream_and_compare(setting, upscaler, on_cpu, setting.size, 40, seed)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(work, (1, 2)))  # raises a thread's exception here
    return "40 frames each"


def ways_to_run_agree(setting: Setting) -> str:
    """Check that results agree with and without CUDA graphs, and with and without zero copy."""
    image = next(frames(setting.size, 1, seed=5))
    results: dict[str, Image] = {}
    for graphs in (True, False):
        for zero_copy in (True, False):
            with setting.upscaler(cuda_graphs=graphs, zero_copy=zero_copy) as upscaler:
                for _ in range(3):  # the first run is not captured as a graph
                    upscaled = upscaler(image)
                results[f"graphs {graphs}, zero copy {zero_copy}"] = upscaled
    first = next(iter(results.values()))
    for name, upscaled in results.items():
        if np.abs(first.astype(int) - upscaled).max() > (0 if setting.least_psnr_db is None else 1):
            raise CheckFailed(f"{name}: the result differs")
    return f"{len(results)} ways"


def three_slots_are_no_slower_than_one(setting: Setting) -> str:
    """Check that three slots are no slower than one, and report the speed-up."""
    rates: dict[int, float] = {}
    # The best of two rounds each, and of more where other work on the host may have held one up.
    for rounds in range(1, 6):
        for slots in (1, 3):
            with setting.upscaler(slots=slots) as upscaler:
                stream_all(upscaler, setting.size, frames(setting.size, 5), lambda *_: None)
                source = list(frames(setting.size, 8)) * (setting.frames // 8)
                began = time.perf_counter()
                stream_all(upscaler, setting.size, iter(source), lambda *_: None)
                rates[slots] = max(rates.get(slots, 0.0), len(source) / (time.perf_counter() - began))
        ratio = rates[3] / rates[1]
        if rounds > 1 and ratio >= 0.9:
            return f"{rates[3]:.1f} frames per second with 3 slots, {ratio:.2f} times as fast as with 1 slot"
    raise CheckFailed(f"3 slots: {rates[3]:.1f} frames per second, 1 slot: {rates[1]:.1f}")


def memory_runs_out(setting: Setting) -> str:
    """Check that with little free GPU memory fewer slots or smaller tiles are used, or a clear error is raised."""
    with _acquired(setting.device) as gpu:
        if gpu.shares_memory:
            return "skipped: the GPU shares the host's memory"
        image = next(frames(setting.size, 1, seed=7))
        with setting.expected() as on_cpu:
            expected = on_cpu(image)
        said = []
        for left_bytes in (400_000_000, 60_000_000):
            with _taken(gpu, left_bytes), setting.upscaler() as upscaler:
                try:
                    compare(setting, upscaler(image), expected, f"an image with {left_bytes / 1e6:.0f} MB left")
                    said.append(f"{left_bytes / 1e6:.0f} MB: passed")
                except BackendError as error:
                    if "memory" not in str(error):
                        raise
                    said.append(f"{left_bytes / 1e6:.0f} MB: out of memory reported")
        return ", ".join(said)


def times_of_the_stages(setting: Setting) -> str:
    """Check that the GPU's times of the stages fit into the host's time, and that timing changes no result."""
    images = np.stack(list(frames(setting.size, 4, seed=9)))
    said = []
    for zero_copy in (False, True):
        with setting.expected() as on_cpu, setting.upscaler(slots=1, zero_copy=zero_copy) as upscaler:
            backend = upscaler.backend_for(setting.scale)
            assert isinstance(backend, TensorRtBackend)
            backend.upscale_timed(images)
            began = time.perf_counter()
            times = backend.upscale_timed(images)
            host_ms = (time.perf_counter() - began) * 1e3
            copies_ms = (times.copy_in_ms, times.copy_out_ms)
            if not (times.compute_ms > 0 and (copies_ms == (0, 0) if zero_copy else min(copies_ms) > 0)):
                raise CheckFailed(f"zero copy {zero_copy}: {times}")
            if times.compute_ms + sum(copies_ms) > host_ms:
                raise CheckFailed(f"zero copy {zero_copy}: {times}, but {host_ms:.3f} ms by the host's clock")
            compare(setting, backend.upscale(images[:1])[0], on_cpu(images[0]), "an image after timed ones")
            memory_bytes = backend.activation_memory_bytes
        in_ms, compute_ms, out_ms = (
            value / len(images) for value in (times.copy_in_ms, times.compute_ms, times.copy_out_ms)
        )
        said.append(f"{in_ms:.3f} ms in, {compute_ms:.3f} computing, {out_ms:.3f} out")
    return f"{'; zero-copy '.join(said)}; {(memory_bytes or 0) / 1e6:.1f} MB of activations"


CHECKS: dict[str, Callable[[Setting], str]] = {
    check.__name__: check
    for check in (
        every_frame_in_order,
        sizes_that_take_turns,
        larger_than_the_engine_takes,
        nothing_is_left_behind,
        interrupted_in_the_middle,
        two_upscalers_in_two_threads,
        ways_to_run_agree,
        three_slots_are_no_slower_than_one,
        times_of_the_stages,
        memory_runs_out,
    )
}


def run_checks(setting: Setting) -> Iterator[Outcome]:
    """Run every check, one after the other; a failure does not stop the others."""
    for name, check in CHECKS.items():
        began = time.perf_counter()
        try:
            passed, detail = True, check(setting)
        except (CheckFailed, OverNetError, MemoryError) as error:
            passed, detail = False, f"{type(error).__name__}: {error}"
        yield Outcome(name, passed, detail, round(time.perf_counter() - began, 2))


@contextmanager
def _acquired(device: int) -> Iterator[Gpu]:
    """Hold a GPU's context while the block runs."""
    holder = ExitStack()
    gpu = Gpu.acquire(device, holder)
    try:
        yield gpu
    finally:
        gpu.release(holder)


@contextmanager
def _taken(gpu: Gpu, left_bytes: int) -> Iterator[None]:
    """Allocate all but `left_bytes` of a GPU's free memory while the block runs."""
    with gpu.current():
        buffer = gpu.device(max(1, gpu.free_memory_bytes()[0] - left_bytes))
    try:
        yield
    finally:
        with gpu.current():
            buffer.free()


def _free(gpu: Gpu) -> int:
    with gpu.current():
        return gpu.free_memory_bytes()[0]


def command(
    runtime: Annotated[str, typer.Option(help="tensorrt or tensorrt-rtx.")] = "tensorrt",
    model: Annotated[Path | None, typer.Option(help="An engine. Default: one of the bundled network for x2.")] = None,
    reference: Annotated[
        Path | None, typer.Option(help="An ONNX file in FP32 of the same weights. Default: the bundled one for x2.")
    ] = None,
    device: Annotated[int, typer.Option(help="Which GPU.")] = 0,
    frame_count: Annotated[int, typer.Option("--frames", help="Frames in the longest checks.")] = 500,
    as_json: Annotated[bool, typer.Option("--json", help="End with one line of JSON on stdout.")] = False,
) -> None:
    """Check the streaming of frames on this machine's GPU."""
    say = partial(typer.echo, err=True)
    if runtime not in TITLES:
        raise typer.BadParameter(f"--runtime is {runtime[:40]!r}; it can be {' or '.join(TITLES)}")
    name: RuntimeName = "tensorrt" if runtime == "tensorrt" else "tensorrt-rtx"
    try:
        gpu = check_device(device)
        environment = current_environment(name, device)
        setting = setting_for(model, reference, name, device=device, count=frame_count)
        pycuda = pycuda_version()
    except OverNetError as error:
        say(f"overnet: {error}")
        raise typer.Exit(2) from error
    say(
        f"{gpu.name}, compute capability {gpu.compute_capability}, driver {environment.driver or 'unknown'}, "
        f"{environment.jetpack or 'no JetPack'}, {TITLES[name]} {environment.runtime_version}, PyCUDA {pycuda}"
    )
    outcomes = []
    for outcome in run_checks(setting):
        outcomes.append(outcome)
        title = outcome.name.replace("_", " ")
        say(f"{'passed' if outcome.passed else 'FAILED'} {title}: {outcome.detail} ({outcome.seconds:.1f} s)")
    if as_json:
        versions = {**asdict(environment), "pycuda": pycuda}
        typer.echo(json.dumps({"environment": versions, "checks": [asdict(outcome) for outcome in outcomes]}))
    if not all(outcome.passed for outcome in outcomes):
        raise typer.Exit(1)


def main() -> None:
    """``python -m overnet.benchmarks.gpu_checks``."""
    app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.command()(command)
    app()


if __name__ == "__main__":
    main()
