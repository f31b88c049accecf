"""Loading and saving of checkpoints.

Four forms are read: the original's ``*.pth.tar``, the same with weight normalisation folded, and this project's own: a
``.safetensors`` file with architecture and configuration in its metadata, and the state of a training run. No code of a
file is run: pickles are read by torch's restricted unpickler, and safetensors files hold no code.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from overnet.errors import CheckpointError, did_you_mean, file_errors, one_line, printable, require
from overnet.files.atomic import atomic_write, open_regular
from overnet.files.checked_json import parse_object
from overnet.network.family import Network, NetworkConfig, architecture, build, config_from
from overnet.network.model import RGB_MEAN, LearnedScale, OverNet, OverNetConfig
from overnet.network.plain import PlainNet, PlainNetConfig, ReparameterisedConvolution
from overnet.network.tensor_file import load_tensor_file
from overnet.weights import BEST, MODEL_NAMES, model_path

NetworkT = TypeVar("NetworkT", bound=OverNet | PlainNet)

# Of training states; see `overnet.training.state`.
TRAINING_FORMAT = "overnet training 1"
_CONFIG_KEY, _ARCHITECTURE_KEY = "overnet.config", "overnet.architecture"

# The original's frozen layers that subtract and add the mean colour, which is a constant of `OverNet`.
_MEAN_LAYERS = ("sub_mean.shifter", "add_mean.shifter")
# What the errors about other networks end with.
_OTHER_NETWORKS = "export another program's network as an ONNX file, as docs/other-models.md shows"

# The original's names as patterns, in which numbers count from 1, and the names here.
_NAMES: list[tuple[str, Callable[[re.Match[str]], str]]] = [
    (r"entry_1", lambda m: "entry"),
    (r"GDG(\d+)\.RB(\d+)\.body\.0", lambda m: f"{_block(m)}.expand"),
    (r"GDG(\d+)\.RB(\d+)\.body\.2", lambda m: f"{_block(m)}.reduce"),
    (r"GDG(\d+)\.RB(\d+)\.body\.3", lambda m: f"{_block(m)}.spatial"),
    (r"GDG(\d+)\.RB(\d+)\.SE\.conv\.0", lambda m: f"{_block(m)}.excitation.narrow"),
    (r"GDG(\d+)\.RB(\d+)\.SE\.conv\.2", lambda m: f"{_block(m)}.excitation.widen"),
    (r"GDG(\d+)\.RB(\d+)\.res_scale", lambda m: f"{_block(m)}.residual_scale"),
    (r"GDG(\d+)\.RB(\d+)\.x_scale", lambda m: f"{_block(m)}.skip_scale"),
    (r"GDG(\d+)\.reduction(\d+)\.conv", lambda m: f"trunk.members.{int(m[1]) - 1}.reductions.{int(m[2]) - 1}"),
    (r"reduction(\d+)\.conv", lambda m: f"trunk.reductions.{int(m[1]) - 1}"),
    (r"reduction\.conv", lambda m: "fusion"),
    (r"Global_skip\.1", lambda m: "global_skip"),
    (r"upsample\.up\.body\.(\d+)", lambda m: f"head.stages.{int(m[1]) // 3}"),
    (r"exit1", lambda m: "head.exit"),
    (r"res_scale", lambda m: "residual_scale"),
    (r"x_scale", lambda m: "skip_scale"),
]

# The names of a layer's tensors in the original and here, where torch's parametrisation renames them.
_TENSORS = {
    "weight": "weight",
    "bias": "bias",
    "scale": "scale",
    "weight_g": "parametrizations.weight.original0",
    "weight_v": "parametrizations.weight.original1",
}


def _block(match: re.Match[str]) -> str:
    return f"trunk.members.{int(match[1]) - 1}.members.{int(match[2]) - 1}"


def load_model(model: str | Path = BEST) -> Network:
    """Load a bundled network by its name, or that of a checkpoint.

    Args:
        model: ``"realtime"``, ``"fast"``, ``"best"``, or the path of a checkpoint.

    Returns:
        See `load_checkpoint`.

    Raises:
        CheckpointError, MissingDependency: see `load_checkpoint`.
    """
    path = model_path(model, checkpoint=True)
    if not path.exists():
        hint = did_you_mean(str(model), MODEL_NAMES)
        raise CheckpointError(f"{printable(model)}: neither a checkpoint nor one of {', '.join(MODEL_NAMES)}{hint}")
    return load_checkpoint(path)


def load_checkpoint(path: str | Path) -> Network:
    """Load a network from any of the four forms, which are recognised by content, not by the file's name.

    Returns:
        The network in evaluation mode, on the CPU, float32, with ``config`` as read from the file: an `OverNet`, or a
        `PlainNet` where a safetensors file's metadata states that architecture. Of a training state, the averaged
        weights.

    Raises:
        CheckpointError: the file is missing, empty, truncated, of another network, of wrong shapes, or contains code.
        MissingDependency: it is a safetensors file and safetensors is not installed.
    """
    path = Path(path)
    with file_errors(CheckpointError, path), open_regular(path) as file:
        beginning = file.read(9)
    if not beginning:
        raise CheckpointError(f"{path}: the file is empty")
    if beginning[8:9] == b"{":
        state, metadata = _read_safetensors(path)
    elif beginning.startswith((b"PK\x03\x04", b"\x80")):
        state, metadata = _read_pickle(path)
    else:
        raise CheckpointError(f"{path}: neither a PyTorch checkpoint nor a safetensors file")
    with _naming(path):
        return _network(state, metadata).eval()


def load_overnet(path: str | Path) -> OverNet:
    """Load a checkpoint as `load_checkpoint` does, and refuse networks other than OverNet.

    Raises:
        CheckpointError: it holds another network, or see `load_checkpoint`.
    """
    model = load_checkpoint(path)
    if not isinstance(model, OverNet):
        raise CheckpointError(f"{path}: holds a plain network; this needs an OverNet")
    return model


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before the messages of `CheckpointError`s raised in the block."""
    try:
        yield
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    safetensors = require("safetensors", extra="torch", purpose="reading a .safetensors file")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({one_line(error, line=0)})") from error


def _read_pickle(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    content = load_tensor_file(path)
    metadata = {}
    if isinstance(content, Mapping) and content.get("format") == TRAINING_FORMAT:
        weights, average, config = (content.get(name) for name in ("model", "average", "config"))
        if not (isinstance(weights, Mapping) and isinstance(average, Mapping) and isinstance(config, Mapping)):
            raise CheckpointError(f"{path}: a damaged training checkpoint")
        try:
            metadata = {_CONFIG_KEY: json.dumps(config), _ARCHITECTURE_KEY: str(content.get("architecture", "overnet"))}
        except (TypeError, ValueError, RecursionError) as error:
            raise CheckpointError(f"{path}: a damaged training checkpoint ({one_line(error)})") from error
        content = {**weights, **average}
    if isinstance(content, Mapping) and isinstance(content.get("model_state_dict"), Mapping):
        content = content["model_state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise CheckpointError(f"{path}: a PyTorch file, but it holds no model_state_dict; {_OTHER_NETWORKS}")
    return {str(name): tensor for name, tensor in content.items()}, metadata


def _network(state: dict[str, Tensor], metadata: dict[str, str]) -> Network:
    if _CONFIG_KEY in metadata:
        values = parse_object(metadata[_CONFIG_KEY], name="its configuration", error=CheckpointError)
        return network_from(config_from(metadata.get(_ARCHITECTURE_KEY, "overnet"), values), state)
    state = _translated(state)
    return network_from(_config_from_shapes(state), state)


def network_from(config: NetworkConfig, state: Mapping[str, Tensor]) -> Network:
    """Return a network with given weights, in training mode; nothing is allocated unless all tensors fit.

    Raises:
        CheckpointError: a tensor is missing, left over, of another shape, or holds anything but finite floating-point
            numbers.
    """
    if isinstance(config, OverNetConfig) and config.groups * config.blocks > len(state):
        raise CheckpointError(f"it holds {len(state)} tensors, too few for {config.groups} x {config.blocks} blocks")
    # Shapes are compared before the network is allocated, whose size the file chooses.
    with torch.device("meta"):
        expected = {name: tensor.shape for name, tensor in build(config).state_dict().items()}
    missing, unexpected = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    if missing:
        raise CheckpointError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if unexpected:
        raise CheckpointError(
            f"{len(unexpected)} tensors do not belong to {type(config).__name__.removesuffix('Config')}, "
            f"the first is {unexpected[0]}"
        )
    for name, shape in expected.items():
        tensor = state[name]
        if tensor.shape != shape:
            raise CheckpointError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        if not tensor.is_floating_point():
            raise CheckpointError(f"{name} is {tensor.dtype}, expected floating-point numbers")
        if not torch.isfinite(tensor).all():
            raise CheckpointError(f"{name} holds NaN or infinity")
    model = build(config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model


def _translated(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Translate the original's names; its frozen mean layers are checked and left out."""
    ours: dict[str, Tensor] = {}
    for name, tensor in state.items():
        layer, _, leaf = name.removeprefix("module.").rpartition(".")
        if layer in _MEAN_LAYERS:
            sign = -1 if layer.startswith("sub") else 1
            expected = torch.eye(3).view(3, 3, 1, 1) if leaf == "weight" else sign * torch.tensor(RGB_MEAN)
            if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, atol=1e-4):
                raise CheckpointError(f"{name} is not the mean colour {RGB_MEAN} that OverNet is defined with")
            continue
        for pattern, translate in _NAMES:
            match = re.fullmatch(pattern, layer)
            if match and leaf in _TENSORS:
                ours[f"{translate(match)}.{_TENSORS[leaf]}"] = tensor
                break
        else:
            raise CheckpointError(f"another network's checkpoint: {name} is no tensor of OverNet; {_OTHER_NETWORKS}")
    return ours


def _config_from_shapes(state: dict[str, Tensor]) -> OverNetConfig:
    """Find the configuration by the names and shapes of tensors, since the original's files do not state it."""
    weight_normalised = "entry.parametrizations.weight.original1" in state
    leaf = _TENSORS["weight_v"] if weight_normalised else "weight"

    def channels_out(layer: str, tensor: str = leaf) -> int:
        found = state.get(f"{layer}.{tensor}")
        if found is None or found.ndim != 4 or not found.shape[0]:
            raise CheckpointError(f"not an OverNet checkpoint: {layer} is missing or no convolution")
        return found.shape[0]

    def count(pattern: str) -> int:
        return len({match[0] for name in state if (match := re.match(pattern, name))})

    width = channels_out("entry")
    narrowed = channels_out("trunk.members.0.members.0.reduce")
    usual = OverNetConfig.bottleneck
    first_block = "trunk.members.0.members.0"
    stages = count(r"head\.stages\.\d+\.")
    factor = round((channels_out("head.stages.0") / width) ** 0.5)
    try:
        return OverNetConfig(
            overscale=factor**stages,
            width=width,
            groups=count(r"trunk\.members\.\d+\."),
            blocks=count(r"trunk\.members\.0\.members\.\d+\."),
            expansion=max(1, channels_out(f"{first_block}.expand") // width),
            bottleneck=usual if int(width * usual) == narrowed else narrowed / width,
            squeeze=max(1, width // channels_out(f"{first_block}.excitation.narrow", "weight")),
            weight_normalised=weight_normalised,
        )
    except ValueError as error:
        raise CheckpointError(f"no OverNet has these shapes: {error}") from error


def save_checkpoint(model: Network, path: str | Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a network as ``.safetensors`` with its configuration in the metadata, atomically.

    Args:
        model: the network, with weight normalisation or re-parameterised convolutions as they are.
        path: the file to write; an existing one is replaced.
        metadata: further entries, such as the settings of its training.

    Raises:
        OutputError: the file cannot be written.
    """
    safetensors = require("safetensors.torch", extra="torch", purpose="writing a .safetensors file")
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    kind = {_CONFIG_KEY: json.dumps(asdict(model.config)), _ARCHITECTURE_KEY: architecture(model.config)}
    content = safetensors.save(state, {**(metadata or {}), **kind})
    # The entries of the header are sorted, since the library's order changes from run to run.
    length = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + length]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # tensors begin at a multiple of 8
    with atomic_write(Path(path), overwrite=True) as temporary:
        temporary.write_bytes(len(header).to_bytes(8, "little") + header + content[8 + length :])


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read the metadata entries of a safetensors file."""
    return _read_safetensors(Path(path))[1]


def folded(model: NetworkT) -> NetworkT:
    """Return the same network with plain weights; a copy in evaluation mode.

    Weight normalisation, and the sums of re-parameterised convolutions, are folded into one weight each.
    """
    config = model.config
    plain_config: NetworkConfig = (
        replace(config, expansion=0) if isinstance(config, PlainNetConfig) else replace(config, weight_normalised=False)
    )
    plain = build(plain_config).eval()
    assert isinstance(plain, type(model))
    sources = dict(model.named_modules())
    with torch.no_grad():
        for name, target in plain.named_modules():
            if isinstance(target, nn.Conv2d):
                source = sources[name]
                assert isinstance(source, nn.Conv2d | ReparameterisedConvolution)
                assert target.bias is not None and source.bias is not None
                target.weight.copy_(
                    source.folded_weight() if isinstance(source, ReparameterisedConvolution) else source.weight
                )
                target.bias.copy_(source.bias)
            elif isinstance(target, LearnedScale | nn.PReLU):
                target.load_state_dict(sources[name].state_dict())
    return plain


def weights_sha256(model: Network) -> str:
    """Return the SHA-256 of the folded weights, hexadecimal: the same in all forms of a checkpoint.

    It is computed over the tensors in the order of their names here: for each its name, its shape, and its values as
    little-endian float32.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(folded(model).state_dict().items()):
        digest.update(f"{name}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().numpy().astype("<f4").tobytes())
    return digest.hexdigest()
