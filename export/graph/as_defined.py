"""The feature extractor as the network is defined, as a tracing exporter writes it: with its concatenations.

The deployed graph is compared with it in memory, multiply-accumulates and time; it is not meant for deployment.
"""

from collections.abc import Callable, Sequence
from functools import partial

from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.trunk import excitation
from overnet.network.deploy import Convolution, DeployedBlock, DeployedGroup, DeployedNetwork


def features_as_defined(graph: GraphBuilder, network: DeployedNetwork, centred: str) -> str:
    """Add the feature extractor: N x 3 x H x W to N x width x H x W."""
    entry = graph.convolution(centred, network.entry, "entry")
    members = [partial(_group, graph, group, f"group.{index}") for index, group in enumerate(network.groups)]
    outputs = _dense(graph, members, network.reductions, entry, "reduction")
    together = graph.node("Concat", outputs, "fusion.together", axis=1)
    fused = graph.convolution(together, network.fusion, "fusion", relu=True)
    mean = graph.node("GlobalAveragePool", [entry], "global_skip.mean")
    skip = graph.convolution(mean, network.global_skip, "global_skip", relu=True)
    return graph.node(
        "Add",
        [graph.scaled(fused, network.residual_scale, "fused"), graph.scaled(skip, network.skip_scale, "skip")],
        "features",
    )


def _dense(
    graph: GraphBuilder, members: Sequence[Callable[[str], str]], reductions: list[Convolution], x: str, name: str
) -> list[str]:
    """Add members and reductions in turn, and return the reductions' outputs; a reduction takes all members so far."""
    inputs, outputs = [x], []
    for index, (member, reduction) in enumerate(zip(members, reductions, strict=True)):
        inputs.append(member(x))
        together = graph.node("Concat", list(inputs), f"{name}.{index}.together", axis=1)
        x = graph.convolution(together, reduction, f"{name}.{index}", relu=True)
        outputs.append(x)
    return outputs


def _group(graph: GraphBuilder, group: DeployedGroup, name: str, x: str) -> str:
    members = [partial(_block, graph, block, f"{name}.block.{index}") for index, block in enumerate(group.blocks)]
    return _dense(graph, members, group.reductions, x, f"{name}.reduction")[-1]


def _block(graph: GraphBuilder, block: DeployedBlock, name: str, x: str) -> str:
    expanded = graph.convolution(x, block.expand, f"{name}.expand", relu=True)
    y = graph.convolution(graph.convolution(expanded, block.reduce, f"{name}.reduce"), block.spatial, f"{name}.spatial")
    weighed = graph.node("Mul", [y, excitation(graph, block, y, name)], f"{name}.weighed")
    residual = graph.scaled(weighed, block.residual_scale, f"{name}.residual")
    return graph.node("Add", [residual, graph.scaled(x, block.skip_scale, f"{name}.skip")], f"{name}.added")
