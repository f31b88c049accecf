"""The networks there are: which classes, and the names that a user chooses them by."""

from dataclasses import replace

from overnet.errors import CheckpointError
from overnet.files.checked_json import from_json
from overnet.network.model import OverNet, OverNetConfig
from overnet.network.plain import PlainNet, PlainNetConfig

Network = OverNet | PlainNet
NetworkConfig = OverNetConfig | PlainNetConfig

# What a checkpoint's metadata calls each class of networks; a file that says nothing is an OverNet.
ARCHITECTURES: dict[str, type[OverNetConfig] | type[PlainNetConfig]] = {
    "overnet": OverNetConfig,
    "plain": PlainNetConfig,
}

# About 1.1 million, 97,000 and 21,000 multiply-accumulates for each input pixel at x2.
NETWORKS: dict[str, NetworkConfig] = {
    "overnet": OverNetConfig(),
    "fast": PlainNetConfig(width=32, depth=10),
    "realtime": PlainNetConfig(width=16, depth=8),
}


def build(config: NetworkConfig) -> Network:
    """Return a network of random weights, in training mode."""
    return PlainNet(config) if isinstance(config, PlainNetConfig) else OverNet(config)


def architecture(config: NetworkConfig) -> str:
    """Return the key of `ARCHITECTURES` for a configuration."""
    return next(name for name, kind in ARCHITECTURES.items() if isinstance(config, kind))


def config_from(name: object, values: object) -> NetworkConfig:
    """Make a configuration of an architecture from its fields, which may be damaged or hostile.

    Raises:
        CheckpointError: the architecture is unknown, or a field is missing, unknown, of another type or out of range.
    """
    if str(name) not in ARCHITECTURES:
        raise CheckpointError(f"its architecture is {name!r}; there are {', '.join(ARCHITECTURES)}")
    try:
        return from_json(ARCHITECTURES[str(name)], values, name="its configuration", error=CheckpointError)
    except ValueError as error:
        raise CheckpointError(f"its configuration is out of range: {error}") from error


def network_name(config: NetworkConfig) -> str | None:
    """Return the key of `NETWORKS` for a configuration, whatever its scales and its form; None where it has none."""
    if isinstance(config, OverNetConfig):
        return "overnet"
    for name, known in NETWORKS.items():
        if isinstance(known, PlainNetConfig) and known == replace(
            config, scales=known.scales, expansion=known.expansion
        ):
            return name
    return None
