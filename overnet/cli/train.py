"""``overnet train``: train a network, from random weights or a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.common import command, print_status
from overnet.cli.options import HARDWARE, OUTPUT, QuietOption, among, check_choice, check_range, under
from overnet.words import counted, duration

if TYPE_CHECKING:
    import torch

    from overnet.training.data.packed_images import PackedImages
    from overnet.training.data.teacher_targets import TeacherTargets
    from overnet.training.distributed import Team
    from overnet.training.settings import TrainSettings
    from overnet.training.state import TrainState

_DATA, _RUN, _TEACHER, _SETTINGS = map(under, ("Images", "Start", "Teachers", "Settings"))
_NETWORKS, _DEVICES = among("overnet", "fast", "realtime"), among("auto", "cpu", "cuda", "mps")
_PRESET = "multiscale"
_MOST_WORKERS, _LONGEST_SECONDS = 256, 1_000_000


@dataclass(frozen=True)
class RunOptions:
    """Options that say which run is meant: a new one and from what, or the one in the folder."""

    preset: Annotated[
        str | None,
        _RUN(
            metavar="NAME",
            help="Settings to start from: multiscale (the default), distil, or original for the paper's.",
            autocompletion=among("multiscale", "distil", "original"),
        ),
    ] = None
    config: Annotated[Path | None, _RUN(metavar="FILE", help="JSON file of settings that replace the preset's.")] = None
    start: Annotated[
        Path | None, _RUN("--from", metavar="PATH", help="Checkpoint to start from. Default: random weights.")
    ] = None
    resume: Annotated[bool, _RUN("--resume", help="Continue the run in the folder exactly.")] = False
    network: Annotated[
        str | None,
        _RUN(
            metavar="NAME",
            help="Network to train from random weights: overnet, fast or realtime.",
            autocompletion=_NETWORKS,
        ),
    ] = None
    teacher: Annotated[
        list[Path] | None,
        _TEACHER(
            metavar="FILE",
            help="Network to learn from: an ONNX file of one scale, or a checkpoint of ours; repeat for more scales.",
        ),
    ] = None
    teacher_share: Annotated[
        float | None, _TEACHER(metavar="0..1", help="Share of the loss against the teacher; the rest: true images.")
    ] = None


@command
def train_command(
    data: Annotated[
        list[Path], _DATA(metavar="PATH", help="Folder of images, or packed file; repeat for more folders.")
    ],
    output: Annotated[Path, OUTPUT("--output", "-o", metavar="DIR", help="Folder for checkpoints and weights.")],
    run: RunOptions,
    scales: Annotated[str | None, _SETTINGS(metavar="LIST", help="Scales with commas between, such as 2,3,4.")] = None,
    overscale: Annotated[
        int | None, _SETTINGS(metavar="N", help="The network's overscale factor: 2, 3, 4, 5 or 8.")
    ] = None,
    batch: Annotated[int | None, _SETTINGS(metavar="N", help="Patches in a step, over all processes.")] = None,
    steps: Annotated[int | None, _SETTINGS(metavar="N", help="Length of the run in steps.")] = None,
    minutes: Annotated[float | None, _SETTINGS(metavar="MINUTES", help="Length of the run in time, not steps.")] = None,
    settings: Annotated[
        list[str] | None,
        _SETTINGS(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as learning_rate=2e-4 or loss=l2; repeat for several.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        _DATA(metavar="DIR", help="Images to validate with, as for eval --data; the best weights are kept."),
    ] = None,
    device: Annotated[
        str,
        HARDWARE(metavar="NAME", help="auto, cpu, cuda or mps.", autocompletion=_DEVICES),
    ] = "auto",
    threads: Annotated[int | None, HARDWARE(metavar="N", help="CPU threads. Default: PyTorch's choice.")] = None,
    workers: Annotated[int, HARDWARE(metavar="N", help="Processes that prepare patches.")] = 1,
    save_seconds: Annotated[float, HARDWARE(metavar="SECONDS", help="Time between checkpoints.")] = 300.0,
    timeout_seconds: Annotated[
        float, HARDWARE(metavar="SECONDS", help="Time after which a worker counts as hung.")
    ] = 600.0,
    tensorboard: Annotated[
        bool, OUTPUT("--tensorboard/--no-tensorboard", help="Write scalars and images for TensorBoard.")
    ] = True,
    quiet: QuietOption = False,
) -> None:
    """Train a network, from random weights or a checkpoint.

    Writes last.pt (to resume from), best.safetensors (by validation), final.safetensors and curve.csv (step, seconds,
    loss, learning rate, patches per second, and the PSNR at each scale where it was validated). Ctrl-C saves and stops.

    With several GPUs: torchrun --nproc-per-node N -m overnet train ...
    """
    from overnet.errors import require

    torch = require("torch", extra="train", purpose="training")
    from overnet.files.atomic import ensure_folder
    from overnet.system.memory import usable_cores
    from overnet.training.data.packed_images import pack
    from overnet.training.distributed import joined, team_from_environment
    from overnet.training.loop import TrainOptions, pick_device, train
    from overnet.training.patches import Patches
    from overnet.training.report import require_tensorboard
    from overnet.training.settings import PRESETS
    from overnet.training.validation import load_examples

    check_range("--threads", threads, 1)
    check_range("--workers", workers, 0, _MOST_WORKERS)
    check_range("--timeout-seconds", timeout_seconds, 1, _LONGEST_SECONDS)
    check_range("--save-seconds", save_seconds, 0, _LONGEST_SECONDS)
    check_choice("--preset", run.preset or _PRESET, tuple(PRESETS))
    if threads is not None:
        torch.set_num_threads(min(threads, usable_cores()))
    single = {
        "network": run.network,
        "teacher_share": run.teacher_share,
        "overscale": overscale,
        "batch": batch,
        "steps": steps,
        "minutes": minutes,
    }
    given: dict[str, object] = {name: value for name, value in single.items() if value is not None}
    if scales is not None:
        try:
            given["scales"] = [float(each) for each in scales.split(",")]
        except ValueError as error:
            raise typer.BadParameter(f"--scales is {scales!r}; it must be numbers with commas between") from error
    given |= _parse_settings(settings or [])
    team = team_from_environment()
    where = pick_device(device, team)
    quiet = quiet or not team.is_main
    options = TrainOptions(
        output,
        workers=workers,
        save_seconds=save_seconds,
        timeout_seconds=timeout_seconds,
        tensorboard=tensorboard,
        report=lambda line: print_status(line, quiet=quiet),
    )
    with joined(team, where, timeout_seconds):
        state = _state(output, run, given, where, team, options.report)
        if tensorboard and team.is_main:
            require_tensorboard()
        if validation is not None and team.is_main:
            options = replace(options, examples=load_examples(validation, sorted(set(state.settings.scales))))
        packed = output / "images.packed"
        if team.is_main:
            with _removed_if_refused(output, packed):
                images = pack(
                    data,
                    packed,
                    report=options.report,
                    check=lambda images: _check_origin(state, "data", images.sha256, "images"),
                )
                teachers = _teachers(state, images, run.teacher or [], fill=True, report=options.report)
                Patches(images, state.settings, world=team.world, teachers=teachers)
                ensure_folder(output)
        team.barrier()
        images = pack(data, packed, report=options.report)
        teachers = _teachers(state, images, run.teacher or [], fill=False, report=options.report)
        train(state, images, options, team, teachers)
    print_status(f"{output}: {counted(state.step, 'step')} in {duration(state.elapsed_seconds)}", quiet=quiet)


def _parse_settings(texts: list[str]) -> dict[str, object]:
    """Return the settings of texts such as ``loss=l2``, by name."""
    given: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set is {text!r}; it must be NAME=VALUE")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value  # a word, such as l2
    return given


@contextmanager
def _removed_if_refused(folder: Path, packed: Path) -> Iterator[None]:
    """Remove the folder on an error if the block has made it; a folder that was there keeps its packed images."""
    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        yield
    except BaseException:
        if missing:
            with suppress(OSError):
                packed.unlink(missing_ok=True)
                for each in missing:
                    each.rmdir()
        raise


def _teachers(
    state: TrainState, images: PackedImages, files: list[Path], *, fill: bool, report: Callable[[str], None]
) -> dict[int, TeacherTargets]:
    """Open the teachers' outputs: of the given files, or of a resumed run's teachers where none are given.

    Raises:
        InputError: see `teacher_targets`; or a resumed run had other teachers.
    """
    from overnet.errors import InputError
    from overnet.training.data.teacher import teacher_targets
    from overnet.training.data.teacher_targets import TeacherTargets

    if state.settings.int8 and files:
        raise InputError("--teacher: a network that is trained for INT8 learns from its own outputs in FP32")
    whole = [int(scale) for scale in state.settings.scales if scale == int(scale)]
    if state.step and not files:
        return {scale: TeacherTargets(images, scale, sha256) for scale, sha256 in state.teachers.items()}
    targets = teacher_targets(files, images, whole, fill=fill, report=report)
    found = {scale: each.teacher_sha256 for scale, each in targets.items()}
    if state.step and found != state.teachers:
        raise InputError("--resume goes on with the teachers that the run began with; give the same files, or none")
    state.teachers = found
    return targets


def _check_origin(state: TrainState, option: str, value: str, what: str) -> None:
    """Note what a new run begins with, and check that a resumed run is given the same.

    Raises:
        InputError: it is given something else.
    """
    from overnet.errors import InputError

    if state.step and state.origin.get(option, value) != value:
        raise InputError(f"--resume goes on with the {what} that the run began with; --{option} gives others")
    state.origin[option] = value


def _check_resumed(state: TrainState, settings: TrainSettings, run: RunOptions) -> None:
    """Check what a resumed run is given, and let it become longer.

    Raises:
        typer.BadParameter, InputError: it is given something else than it began with.
    """
    from overnet.network.checkpoint import load_checkpoint, weights_sha256

    before, after = state.settings.to_json(), settings.to_json()
    for name, old in before.items():
        new = after[name]
        is_length = name in ("steps", "minutes") and old is not None and new is not None
        if old != new and not (is_length and new > old):
            hint = "; it may only become longer" if is_length else ""
            raise typer.BadParameter(f"--resume goes on with {name} {old}, not {new}{hint}")
    state.settings = settings
    if run.preset is not None:
        _check_origin(state, "preset", run.preset, "settings")
    if run.start is not None:
        _check_origin(state, "from", weights_sha256(load_checkpoint(run.start)), "weights")


def _state(
    folder: Path,
    run: RunOptions,
    given: dict[str, object],
    device: torch.device,
    team: Team,
    report: Callable[[str], None],
) -> TrainState:
    """Load the run in the folder, or make a new one."""
    import torch

    from overnet.errors import CheckpointError, InputError, OutputError
    from overnet.network.checkpoint import folded, load_checkpoint, weights_sha256
    from overnet.network.family import NETWORKS, build, network_name
    from overnet.network.model import OverNetConfig
    from overnet.training.settings import PRESETS, read_settings, settings_from
    from overnet.training.state import LAST, PREVIOUS, load_state, new_state

    if not run.resume and team.is_main and ((folder / LAST).exists() or (folder / PREVIOUS).exists()):
        raise OutputError(f"{folder}: there is a run in it already (--resume continues it)")
    state = load_state(folder, device, report=report) if run.resume else None
    base = PRESETS[run.preset or _PRESET] if state is None else state.settings
    if run.config is not None:
        base = read_settings(run.config, base)
    settings = settings_from(given, base, name="the command line")
    if state is not None:
        _check_resumed(state, settings, run)
        return state
    if settings.int8 and run.start is None:
        raise InputError("--set int8=true trains a network on; give its weights with --from")
    torch.manual_seed(settings.seed)
    if run.start is None:
        shape = NETWORKS[settings.network]
        if isinstance(shape, OverNetConfig):
            shape = replace(shape, overscale=settings.overscale)
        model = build(shape)
    else:
        model = load_checkpoint(run.start)
        network = network_name(model.config)
        if network is None:
            raise CheckpointError(f"{run.start}: a network of another size than {', '.join(NETWORKS)}")
        settings = replace(settings, network=network)
        if isinstance(model.config, OverNetConfig):
            settings = replace(settings, overscale=model.config.overscale)
            if settings.optimiser == "muon":
                # Muon's rule is for whole weights, not for their lengths and directions apart.
                model = folded(model)
    begun_with = "" if run.start is None else weights_sha256(model)
    state = new_state(settings, model, device)
    state.origin = {"preset": run.preset or _PRESET, "from": begun_with}
    return state
