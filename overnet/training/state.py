"""The state of a training run, saved in one file that is replaced atomically."""

import copy
import itertools
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from overnet.errors import CheckpointError, OutputError, OverNetError, one_line, printable
from overnet.files.atomic import atomic_write
from overnet.network.checkpoint import TRAINING_FORMAT, network_from, save_checkpoint
from overnet.network.family import Network, architecture, build, config_from
from overnet.network.plain import PlainNet
from overnet.network.tensor_file import load_tensor_file
from overnet.training.fake_int8 import FakeInt8
from overnet.training.optimisers import AdamP, Muon
from overnet.training.settings import TrainSettings, settings_from

LAST, PREVIOUS, BEST, FINAL = "last.pt", "previous.pt", "best.safetensors", "final.safetensors"
CURVE = "curve.csv"


@dataclass
class TrainState:
    """The network in training, its optimiser, its averaged weights, and the progress.

    Attributes:
        step: steps done.
        elapsed_seconds: of training since the run first began, pauses left out.
        skipped: steps that changed nothing, since the loss or the gradient was not finite.
        skipped_in_a_row: the number of such steps up to now without another between.
        best_psnr_db: the best validation so far.
        validated_step: of the last validation; -1 before the first one.
        average: the averaged weights by name; empty where `TrainSettings.ema` is 0.
        teachers: SHA-256 of the teacher's file for each scale that has one.
        origin: what the run began with, by option: the SHA-256 of the images (``data``) and of the weights (``from``;
            empty where they were random), and the name of the ``preset``.
        exact: while training for INT8, the network as it was before, whose outputs are the targets.
    """

    settings: TrainSettings
    model: Network
    optimiser: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    average: dict[str, Tensor] = field(default_factory=dict)
    teachers: dict[int, str] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    exact: Network | None = None
    step: int = 0
    elapsed_seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    best_psnr_db: float = -1.0
    validated_step: int = -1

    @torch.no_grad()
    def update_average(self) -> None:
        """Move the averaged weights towards the present ones."""
        if self.average:
            parameters = dict(self.model.named_parameters())
            torch._foreach_lerp_(
                list(self.average.values()), [parameters[name] for name in self.average], 1 - self.settings.ema
            )

    @torch.no_grad()
    def averaged_model(self) -> Network:
        """Return a copy of the network with the averaged weights, or the present ones where none are averaged."""
        averaged = build(self.model.config)
        averaged.load_state_dict({**self.model.state_dict(), **self.average})
        device = next(self.model.parameters()).device
        layout = torch.channels_last if self.settings.channels_last else torch.contiguous_format
        averaged = averaged.to(device=device).to(memory_format=layout).eval()  # type: ignore[call-overload]
        if isinstance(averaged, PlainNet) and self.settings.int8:
            # So that validation measures the quality in INT8.
            FakeInt8(averaged).measure_ranges(averaged)
        return averaged

    def save(self, folder: Path) -> None:
        """Write ``last.pt``; an earlier one becomes ``previous.pt``.

        Raises:
            OutputError: the disk is full, or the folder is not writable.
        """
        content = {
            "format": TRAINING_FORMAT,
            "settings": self.settings.to_json(),
            "architecture": architecture(self.model.config),
            "config": asdict(self.model.config),
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "scaler": self.scaler.state_dict(),
            "average": self.average,
            "teachers": self.teachers,
            "origin": self.origin,
            **({} if self.exact is None else {"exact": self.exact.state_dict()}),
            **{name: getattr(self, name) for name in _PROGRESS},
        }
        with atomic_write(folder / LAST, overwrite=True) as temporary:
            try:
                torch.save(content, temporary)
            except RuntimeError as error:  # PyTorch's own writer
                raise OutputError(f"{printable(folder / LAST)} cannot be written: {one_line(error)}") from error
            if (folder / LAST).exists():
                (folder / LAST).replace(folder / PREVIOUS)

    def export(self, path: Path) -> None:
        """Write the averaged weights as ``.safetensors``, with the settings in its metadata."""
        training = {name: str(value) for name, value in self.settings.to_json().items()}
        save_checkpoint(self.averaged_model(), path, metadata={**training, "steps": str(self.step)})


# What a damaged state raises besides errors of this project, once its members' types are checked: a field that is
# missing, one out of range or of another shape, and deep nesting. All else is a programming error or a lack of memory.
_DAMAGE = (KeyError, ValueError, RecursionError)
_PROGRESS = ("step", "elapsed_seconds", "skipped", "skipped_in_a_row", "best_psnr_db", "validated_step")


def new_state(settings: TrainSettings, model: Network, device: torch.device) -> TrainState:
    """Return the state of a new run, whose network begins with its present weights."""
    layout = torch.channels_last if settings.channels_last else torch.contiguous_format
    model = model.to(device=device).to(memory_format=layout).train()  # type: ignore[call-overload]
    make: Any = {"adamp": AdamP, "adam": torch.optim.Adam, "muon": Muon}[settings.optimiser]
    scaler = torch.amp.GradScaler(device.type, enabled=settings.autocast == "fp16")
    state = TrainState(settings, model, make(model.parameters(), settings.learning_rate), scaler)
    if settings.int8 and isinstance(model, PlainNet):
        state.exact = copy.deepcopy(model).requires_grad_(False)
        FakeInt8(model)
    if settings.ema:
        state.average = {name: tensor.detach().clone() for name, tensor in model.named_parameters()}
    return state


def load_state(folder: Path, device: torch.device, *, report: Callable[[str], None] = lambda line: None) -> TrainState:
    """Read the last checkpoint of a run that is whole.

    Args:
        report: called with one line where the last is damaged and the one before is used.

    Raises:
        CheckpointError: there is none, or the last two are damaged.
    """
    problems: list[CheckpointError] = []
    for name in (LAST, PREVIOUS):
        try:
            state = _restored(folder / name, device)
            if problems:
                report(f"{problems[0]}; {name} is used, of step {state.step}")
            return state
        except CheckpointError as error:
            problems.append(error)
    raise problems[0]


def _restored(path: Path, device: torch.device) -> TrainState:
    if not path.exists():
        raise CheckpointError(f"{printable(path)}: there is no such checkpoint to resume from")
    try:
        content = load_tensor_file(path)
        if not isinstance(content, dict) or content.get("format") != TRAINING_FORMAT:
            raise CheckpointError("it is of another kind")
        content.setdefault("exact", {})  # only states of training for INT8 have it
        _check_types(content)
        settings = settings_from(content["settings"], TrainSettings(), name="its settings")
        config = config_from(content.get("architecture", "overnet"), content["config"])
        state = new_state(settings, network_from(config, content["model"]), device)
        if state.exact is not None:
            state.exact.load_state_dict(network_from(config, content["exact"]).state_dict())
        _restore_optimiser(state.optimiser, content["optimiser"])
        if state.scaler.is_enabled() and not content["scaler"]:
            raise ValueError("scaler is empty")
        state.scaler.load_state_dict(content["scaler"])
        for name, tensor in state.average.items():
            if content["average"][name].shape != tensor.shape:
                raise ValueError(f"the average of {name} has another shape")
            tensor.copy_(content["average"][name])
        state.teachers = {int(scale): str(digest) for scale, digest in content.get("teachers", {}).items()}
        state.origin = {str(name): str(value) for name, value in content.get("origin", {}).items()}
        content.setdefault("validated_step", content["step"])  # states of earlier versions had no unfinished validation
        for name in _PROGRESS:
            kind, value = type(getattr(state, name)), content[name]
            if type(value) not in (int, kind) or not -1 <= value < 1 << 63:
                raise ValueError(f"{name} is {value!r}")
            setattr(state, name, kind(value))
    except (OverNetError, *_DAMAGE) as error:
        reason = str(error) if isinstance(error, OverNetError) else one_line(error)
        raise CheckpointError(f"{printable(path)}: a damaged training checkpoint ({reason})") from error
    return state


def _check_types(content: dict[str, Any]) -> None:
    """Raise ValueError where a member of a state has another type than `TrainState.save` writes.

    Otherwise PyTorch would raise TypeError or AttributeError, as a programming error does.
    """
    optimiser = _checked(content["optimiser"], str, object, "optimiser")
    groups = optimiser["param_groups"]
    if not isinstance(groups, list):
        raise ValueError("the optimiser's param_groups are not a list")
    for group in groups:
        parameters = _checked(group, str, object, "param_groups")["params"]
        if not isinstance(parameters, list) or not all(isinstance(index, int) for index in parameters):
            raise ValueError("the optimiser's params are not numbers")
    for moments in _checked(optimiser["state"], int, dict, "the optimiser's state").values():
        _checked(moments, str, Tensor | int | float, "the optimiser's state")
    for name, key, value in (
        ("settings", str, object),
        ("config", str, object),
        ("model", str, Tensor),
        ("scaler", str, int | float),
        ("average", str, Tensor),
        ("exact", str, Tensor),
    ):
        _checked(content[name], key, value, name)
    _checked(content.get("teachers", {}), int | str, str, "teachers")
    _checked(content.get("origin", {}), str, str, "origin")


def _checked(value: Any, key_type: Any, value_type: Any, name: str) -> dict[Any, Any]:
    """Return a dictionary with keys and values of these types; raise ValueError for any other value."""
    if not isinstance(value, dict):
        raise ValueError(f"{name} is not a dictionary")
    for key, member in value.items():
        if not isinstance(key, key_type) or not isinstance(member, value_type):
            raise ValueError(f"{name} holds a {type(member).__name__} as {key!r}")
    return value


def _restore_optimiser(optimiser: torch.optim.Optimizer, content: Any) -> None:
    """Load the moments of every parameter; the hyperparameters are those of the run's settings, not of the file."""
    own = optimiser.state_dict()["param_groups"]
    indices = [group["params"] for group in own]
    if [group["params"] for group in content["param_groups"]] != indices or not set(content["state"]) <= set(
        itertools.chain.from_iterable(indices)
    ):
        raise ValueError("the optimiser's state is of other parameters")
    optimiser.load_state_dict({"state": content["state"], "param_groups": own})
    for parameter, moments in optimiser.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.ndim and moment.shape != parameter.shape:
                raise ValueError(f"{name} has shape {tuple(moment.shape)}, its parameter {tuple(parameter.shape)}")
