"""``overnet train``: trains a network, or trains one further."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from overnet.cli.common import interruptible, print_status

if TYPE_CHECKING:
    import torch

    from overnet.training.distributed import Team
    from overnet.training.settings import TrainSettings
    from overnet.training.state import TrainState


@interruptible
def train_command(
    data: Annotated[list[Path], typer.Option(help="A folder of images, or a packed file; repeat for more folders.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The run's folder: checkpoints and weights.")],
    preset: Annotated[str, typer.Option(help="multiscale, or original: the paper's recipe.")] = "multiscale",
    config: Annotated[Path | None, typer.Option(help="A JSON file of settings, over the preset's.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="A checkpoint whose weights to begin with. Default: random ones.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder, exactly.")] = False,
    scales: Annotated[str | None, typer.Option(help="Such as 2,3,4.")] = None,
    overscale: Annotated[int | None, typer.Option(help="The network's overscale factor: 2, 3, 4, 5 or 8.")] = None,
    batch: Annotated[int | None, typer.Option(help="Patches a step, over all processes.")] = None,
    steps: Annotated[int | None, typer.Option(help="The run's length in steps.")] = None,
    minutes: Annotated[float | None, typer.Option(help="The run's length by the clock instead.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other setting, such as learning_rate=2e-4 or loss=l2; repeat for more.",
        ),
    ] = None,
    validation: Annotated[
        Path | None,
        typer.Option(help="Images to validate on, in any form that eval takes; the best weights are kept."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps.")] = "auto",
    threads: Annotated[int | None, typer.Option(help="CPU threads to compute with. Default: PyTorch's own.")] = None,
    workers: Annotated[int, typer.Option(help="Processes that prepare patches.")] = 1,
    save_seconds: Annotated[float, typer.Option(help="Between checkpoints.")] = 300.0,
    timeout_seconds: Annotated[float, typer.Option(help="After which a worker counts as hung.")] = 600.0,
    tensorboard: Annotated[bool, typer.Option("--tensorboard/--no-tensorboard", help="Write for TensorBoard.")] = True,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
) -> None:
    """Train a network, or train one further.

    Writes last.pt (to resume from), best.safetensors (by validation), final.safetensors and curve.csv (step, seconds,
    loss, learning rate, patches a second, and PSNR by scale where it was validated). Ctrl-C saves and stops.
    With several GPUs or machines: torchrun --nproc-per-node N -m overnet train ...
    """
    from dataclasses import replace

    import torch

    from overnet.files.atomic import ensure_folder
    from overnet.training.distributed import joined, team_from_environment
    from overnet.training.loop import TrainOptions, pick_device, train
    from overnet.training.packed_images import pack
    from overnet.training.patches import Patches
    from overnet.training.report import require_tensorboard
    from overnet.training.validation import load_examples

    if threads is not None:
        torch.set_num_threads(threads)
    given: dict[str, object] = {
        "scales": _numbers(scales) if scales is not None else None,
        "overscale": overscale,
        "batch": batch,
        "steps": steps,
        "minutes": minutes,
    }
    given = {name: value for name, value in given.items() if value is not None} | _assignments(settings or [])
    team = team_from_environment()
    where = pick_device(device, team)
    quiet = quiet or not team.is_main
    options = TrainOptions(
        output,
        workers=workers,
        save_seconds=save_seconds,
        timeout_seconds=timeout_seconds,
        tensorboard=tensorboard,
        say=lambda line: print_status(line, quiet=quiet),
    )
    with joined(team, where, timeout_seconds):
        state = _state(output, given, preset=preset, config=config, start=start, resume=resume, device=where, team=team)
        if tensorboard and team.is_main:
            require_tensorboard()
        if validation is not None and team.is_main:
            whole_scales = sorted({int(scale) for scale in state.settings.scales if scale == int(scale)})
            options = replace(options, examples=load_examples(validation, whole_scales))
        packed = output / "images.packed"
        if team.is_main:
            with _nothing_left_if_refused(output, packed):
                Patches(pack(data, packed, say=options.say), state.settings, world=team.world)
                ensure_folder(output)
        team.barrier()
        train(state, pack(data, packed, say=options.say), options, team)
    print_status(f"{output}: {state.step} steps in {state.elapsed_seconds / 60:.0f} minutes", quiet=quiet)


@contextmanager
def _nothing_left_if_refused(folder: Path, packed: Path) -> Iterator[None]:
    """Remove a folder that the block made, where it did not end well; one that was there keeps its packed images."""
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


def _numbers(text: str) -> list[float]:
    try:
        return [float(each) for each in text.split(",")]
    except ValueError as error:
        raise typer.BadParameter(f"--scales is {text!r}; it must be numbers with commas between") from error


def _assignments(texts: list[str]) -> dict[str, object]:
    """What ``--set`` gives: numbers, true, false and lists as in JSON; anything else is a word."""
    given: dict[str, object] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals:
            raise typer.BadParameter(f"--set is {text!r}; it must be NAME=VALUE")
        try:
            given[name] = json.loads(value)
        except ValueError:
            given[name] = value
    return given


def _state(
    folder: Path,
    given: dict[str, object],
    *,
    preset: str,
    config: Path | None,
    start: Path | None,
    resume: bool,
    device: torch.device,
    team: Team,
) -> TrainState:
    """The run in the folder, or a new one."""
    from dataclasses import replace

    import torch

    from overnet.errors import OutputError
    from overnet.network.checkpoint import load_checkpoint
    from overnet.network.model import OverNet, OverNetConfig
    from overnet.training.state import LAST, PREVIOUS, load_state, new_state

    if resume:
        state = load_state(folder, device)
        _refuse_changes(state.settings, _settings(state.settings, config, given))
        return state
    if team.is_main and ((folder / LAST).exists() or (folder / PREVIOUS).exists()):
        raise OutputError(f"{folder}: there is a run in it already (--resume goes on with it)")
    settings = _settings(_preset(preset), config, given)
    torch.manual_seed(settings.seed)
    if start is None:
        model = OverNet(OverNetConfig(overscale=settings.overscale))
    else:
        model = load_checkpoint(start)
        settings = replace(settings, overscale=model.config.overscale)
    return new_state(settings, model, device)


def _preset(name: str) -> TrainSettings:
    from overnet.training.settings import PRESETS

    if name not in PRESETS:
        raise typer.BadParameter(f"--preset is {name!r}; there are {', '.join(PRESETS)}")
    return PRESETS[name]


def _settings(base: TrainSettings, config: Path | None, given: dict[str, object]) -> TrainSettings:
    from overnet.training.settings import read_settings, settings_from

    if config is not None:
        base = read_settings(config, base)
    return settings_from(given, base, name="the command line")


def _refuse_changes(was: TrainSettings, wanted: TrainSettings) -> None:
    """A resumed run keeps its settings, or it would not be the run that was begun."""
    before, after = was.to_json(), wanted.to_json()
    changed = [name for name in before if before[name] != after[name]]
    if changed:
        name = changed[0]
        raise typer.BadParameter(f"--resume goes on with {name} {before[name]}, not {after[name]}")
