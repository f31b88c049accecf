"""The settings of a training run (named presets, and changes from a file or the command line), and its schedule."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, get_type_hints

from overnet.errors import InputError, file_errors
from overnet.files.checked_json import checked, parse_object
from overnet.files.onnx_metadata import exact_scale
from overnet.network.family import NETWORKS
from overnet.network.model import OVERSCALE_FACTORS
from overnet.network.plain import PlainNetConfig

SCHEDULES = ("constant", "halving", "cosine")
OPTIMISERS = ("adamp", "adam", "muon")
LOSSES = ("l1", "l2")
AUTOCASTS = ("auto", "off", "bf16", "fp16")

# Fractional scales are multiples of this, so that a patch begins and ends on whole pixels of both images.
FRACTION = Fraction(1, 8)


@dataclass(frozen=True)
class TrainSettings:
    """All settings that a run's result depends on, besides the images and the machine.

    Attributes:
        scales: the scales to train for; each a multiple of one of the fractions whose denominator divides `patch`.
        network: "overnet", or one of the smaller plain networks, "fast" and "realtime".
        overscale: OverNet's overscale factor, where training starts from random weights.
        fractional_share: share of the batches, 0 to 1, whose scale is drawn between the whole ones, in steps of 1/8;
            for OverNet, since the other networks have whole scales only.
        joint_scales: whether every batch is trained for all of `scales` at once, as by the paper's loss for several
            scales. The low-resolution patch is made for the largest, and the other targets are the image reduced.
        patch: side of the low-resolution patches in pixels.
        batch: patches a step, over all processes and all `accumulate` parts.
        accumulate: number of parts of a batch that are computed one after the other, for less memory.
        candidates: places that are drawn for each patch; the one with the largest differences is used.
        augment: whether to flip and rotate patches.
        steps: length of the run; None where `minutes` is given.
        minutes: length of the run in time, pauses left out. The schedule then follows the clock; a run can be resumed,
            but the number of its steps varies.
        learning_rate: after the warm-up.
        schedule: "constant", "halving" every `halve_every` steps, or "cosine" down to `final_share` of the rate.
        warm_up: number of steps over which the rate rises linearly.
        optimiser: "adamp", "adam" or "muon".
        teacher_share: share of the loss, 0 to 1, that is taken against a teacher's output; the rest is taken against
            the true image. At a scale that has no teacher, the true image is the only target.
        luma_share: share of the loss, 0 to 1, that is the error of the luma (BT.601), on which PSNR and SSIM are
            measured and which the eye resolves best; the rest is the error of red, green and blue.
        int8: whether to train for INT8 (`overnet.training.fake_int8`): with weights and inputs of convolutions rounded
            as INT8 rounds them, and the outputs of the network as it was at the beginning, in FP32, as the only
            targets; for plain networks.
        loss: "l1", the mean absolute error of the paper, or "l2", the mean squared error, which PSNR measures. A
            network trained with "l1" gains a little PSNR from some steps with "l2" at a low rate.
        clip: largest norm of the gradient; 0 turns clipping off.
        ema: decay of the averaged weights for each step; 0 turns averaging off.
        autocast: "bf16", "fp16" or "off"; "auto" is bf16 where the device is faster in it.
        channels_last: whether to use the memory layout in which convolutions are fast.
        compile: whether to use torch.compile for the trunk (it needs a compiler, and some minutes at the start).
        seed: of all random numbers.
        validate_every: steps between validations.
    """

    scales: tuple[float, ...] = (2.0, 3.0, 4.0)
    network: str = "overnet"
    overscale: int = 5
    fractional_share: float = 0.15
    joint_scales: bool = False
    patch: int = 32
    batch: int = 16
    accumulate: int = 1
    candidates: int = 2
    augment: bool = True
    steps: int | None = 100_000
    minutes: float | None = None
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    halve_every: int = 150_000
    final_share: float = 0.0
    warm_up: int = 200
    optimiser: str = "adamp"
    teacher_share: float = 0.5
    luma_share: float = 0.0
    int8: bool = False
    loss: str = "l1"
    clip: float = 10.0
    ema: float = 0.999
    autocast: str = "auto"
    channels_last: bool = True
    compile: bool = False
    seed: int = 0
    validate_every: int = 500

    def __post_init__(self) -> None:
        problem = _problem(self)
        if problem:
            raise InputError(f"training: {problem}")

    @property
    def has_fractional_scales(self) -> bool:
        """Whether some batches have a scale between the whole ones."""
        return self.network == "overnet" and self.fractional_share > 0

    def to_json(self) -> dict[str, Any]:
        """Return the settings as numbers, strings and lists."""
        return {**asdict(self), "scales": list(self.scales)}


def settings_from(content: Mapping[str, object], base: TrainSettings, *, name: str) -> TrainSettings:
    """Return settings with changes from a file, a checkpoint or a command line, checked by name and type.

    Args:
        content: names of `TrainSettings` and their values.
        base: the settings to change. `minutes` alone replaces `steps`, and the other way round.
        name: the source of `content`, for messages.

    Raises:
        InputError: a setting is unknown, of the wrong type, or out of range.
    """
    kinds = get_type_hints(TrainSettings)
    unknown = sorted(set(content) - set(kinds))
    if unknown:
        raise InputError(f"{name}: there is no setting {unknown[0]!r}; there are {', '.join(kinds)}")
    values = {}
    for key, value in content.items():
        try:
            values[key] = checked(kinds[key], value, key, name=name)
        except InputError as error:
            raise InputError(f"{error}: {value!r}") from error
    if values.get("minutes") is not None and "steps" not in values:
        values["steps"] = None
    if values.get("steps") is not None and "minutes" not in values:
        values["minutes"] = None
    return replace(base, **values)


def read_settings(path: Path, base: TrainSettings) -> TrainSettings:
    """Return settings with changes from a JSON file such as ``{"learning_rate": 2e-4, "ema": 0.99}``.

    Raises:
        InputError: the file cannot be read or is not a JSON object, or see `settings_from`.
    """
    with file_errors(InputError, path, " cannot be read"):
        content = path.read_bytes()
    return settings_from(parse_object(content, name=str(path)), base, name=str(path))


def _problem(settings: TrainSettings) -> str | None:
    """Return the first problem of the settings, or None."""
    choices = {
        "schedule": SCHEDULES,
        "optimiser": OPTIMISERS,
        "loss": LOSSES,
        "autocast": AUTOCASTS,
        "network": tuple(NETWORKS),
        "overscale": OVERSCALE_FACTORS,
    }
    for name, allowed in choices.items():
        if getattr(settings, name) not in allowed:
            return f"{name} is {getattr(settings, name)!r}; it must be one of {', '.join(map(str, allowed))}"
    ranges = {
        "fractional_share": (0, 1), "teacher_share": (0, 1), "luma_share": (0, 1), "patch": (8, 4096),
        "batch": (1, 1 << 20), "accumulate": (1, 1 << 20),
        "candidates": (1, 100), "learning_rate": (0, 100), "halve_every": (1, 1 << 40), "final_share": (0, 1),
        "warm_up": (0, 1 << 40), "clip": (0, math.inf), "ema": (0, 1 - 1e-9), "seed": (0, (1 << 63) - 1),
        "validate_every": (1, 1 << 40),
    }  # fmt: skip
    for name, (low, high) in ranges.items():
        if not low <= getattr(settings, name) <= high:
            return f"{name} is {getattr(settings, name)}; it must be from {low} to {high}"
    if (settings.steps is None) == (settings.minutes is None):
        return "the run's length is given either in steps or in minutes"
    if not (settings.steps or settings.minutes or 0) > 0:
        return "the run's length must be more than 0"
    if settings.batch % settings.accumulate:
        return f"a batch of {settings.batch} cannot be cut into {settings.accumulate} equal parts"
    if settings.int8 and settings.network == "overnet":
        problem: str | None = "int8 is for the plain networks, not for overnet"
    else:
        problem = _problem_of_scales(settings)
    return problem


def _problem_of_scales(settings: TrainSettings) -> str | None:
    if not settings.scales:
        return "there is no scale to train for"
    plain = NETWORKS[settings.network]
    for scale in settings.scales:
        if isinstance(plain, PlainNetConfig):
            if scale not in plain.scales:
                return f"scale is {scale:g}; the network {settings.network!r} has {', '.join(map(str, plain.scales))}"
        elif not 1 < scale <= settings.overscale:
            return f"scale is {scale:g}; it must be above 1 and at most the overscale factor, {settings.overscale}"
        if settings.patch % exact_scale(scale).denominator:
            return f"a patch of {settings.patch} has no whole number of pixels at scale {scale:g}"
    if settings.has_fractional_scales and settings.patch % FRACTION.denominator:
        return f"with fractional scales the patch must be a multiple of {FRACTION.denominator}, not {settings.patch}"
    return None


def learning_rate(settings: TrainSettings, step: int, done: float) -> float:
    """Return the learning rate of a step.

    Args:
        settings: of the run.
        step: from 0.
        done: the share of the run before this step, 0 to 1, of its steps or its minutes.

    Returns:
        The rate, 0 or more.
    """
    rate = settings.learning_rate
    if settings.schedule == "halving":
        rate *= 0.5 ** (step // settings.halve_every)
    elif settings.schedule == "cosine":
        share = (1 + math.cos(math.pi * min(max(done, 0.0), 1.0))) / 2
        rate *= settings.final_share + (1 - settings.final_share) * share
    return rate * min(1.0, (step + 1) / (settings.warm_up + 1))


def share_done(settings: TrainSettings, step: int, elapsed_seconds: float) -> float:
    """Return the share of the run that is done, 0 to 1; at 1 the run is complete."""
    if settings.minutes is not None:
        return min(1.0, elapsed_seconds / (60 * settings.minutes))
    assert settings.steps is not None
    return min(1.0, step / settings.steps)


# The original's settings from its paper and repository, for one scale (with an overscale factor one above it); those of
# this project for all scales; and those for learning from a teacher.
PRESETS: dict[str, TrainSettings] = {
    "original": TrainSettings(
        scales=(4.0,),
        fractional_share=0.0,
        patch=64,
        batch=64,
        candidates=1,
        steps=600_000,
        schedule="halving",
        warm_up=0,
        ema=0.0,
        autocast="off",
        channels_last=False,
        validate_every=1000,
    ),
    "multiscale": TrainSettings(),
    "distil": TrainSettings(
        fractional_share=0.0,
        learning_rate=4e-3,
        warm_up=100,
        optimiser="muon",
        teacher_share=0.5,
        luma_share=0.9,
        validate_every=1000,
    ),
}
