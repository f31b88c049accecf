"""The graph as the network is defined, for comparison: what an exporter makes of it, with nothing restructured.

Concatenations, 64 channels on the overscaled grid, and a resize of all of them before the last convolution. It is what
the deployed graph is measured against, in memory, multiply-accumulates and time; nobody is meant to deploy it.
"""

from __future__ import annotations

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.export.graph.resizing_tail import bicubic_resize
from overnet.network.deploy import Convolution, DeployedBlock, DeployedGroup, DeployedNetwork


def plain_features(graph: GraphBuilder, network: DeployedNetwork, centred: str) -> str:
    """Add the feature extractor with its concatenations: N x 3 x H x W to N x width x H x W."""
    entry = graph.convolution(centred, network.entry, "entry")
    members, outputs, reduced = [entry], [], entry
    for index, (group, reduction) in enumerate(zip(network.groups, network.reductions, strict=True)):
        members.append(_group(graph, group, reduced, f"group.{index}"))
        together = graph.node("Concat", list(members), f"reduction.{index}.together", axis=1)
        reduced = graph.convolution(together, reduction, f"reduction.{index}", relu=True)
        outputs.append(reduced)
    together = graph.node("Concat", outputs, "fusion.together", axis=1)
    fused = graph.convolution(together, network.fusion, "fusion", relu=True)
    mean = graph.mean_over_image(entry, "global_skip.mean")
    skip = graph.convolution(mean, network.global_skip, "global_skip", relu=True)
    return graph.node(
        "Add",
        [graph.scaled(fused, network.residual_scale, "fused"), graph.scaled(skip, network.skip_scale, "skip")],
        "features",
    )


def _group(graph: GraphBuilder, group: DeployedGroup, x: str, name: str) -> str:
    members = [x]
    for index, (block, reduction) in enumerate(zip(group.blocks, group.reductions, strict=True)):
        members.append(_block(graph, block, x, f"{name}.block.{index}"))
        together = graph.node("Concat", list(members), f"{name}.reduction.{index}.together", axis=1)
        x = graph.convolution(together, reduction, f"{name}.reduction.{index}", relu=True)
    return x


def _block(graph: GraphBuilder, block: DeployedBlock, x: str, name: str) -> str:
    expanded = graph.convolution(x, block.expand, f"{name}.expand", relu=True)
    y = graph.convolution(graph.convolution(expanded, block.reduce, f"{name}.reduce"), block.spatial, f"{name}.spatial")
    excitation = graph.convolution(graph.mean_over_image(y, f"{name}.mean"), block.narrow, f"{name}.narrow", relu=True)
    excitation = graph.node(
        "Sigmoid", [graph.convolution(excitation, block.widen, f"{name}.widen")], f"{name}.excitation"
    )
    weighed = graph.node("Mul", [y, excitation], f"{name}.weighed")
    residual = graph.scaled(weighed, block.residual_scale, f"{name}.residual")
    return graph.node("Add", [residual, graph.scaled(x, block.skip_scale, f"{name}.skip")], f"{name}.added")


def plain_tail(graph: GraphBuilder, network: DeployedNetwork, features: str, centred: str, scale: int) -> str:
    """Add the tail on the overscaled grid: N x width x H x W to N x 3 x scale*H x scale*W, in levels, mean added."""
    for index, (stage, factor) in enumerate(zip(network.stages, network.stage_factors, strict=True)):
        enlarged = graph.convolution(features, stage, f"overscale.{index}", relu=True)
        features = graph.node("DepthToSpace", [enlarged], f"overscale.{index}.shuffle", blocksize=factor, mode="CRD")
    width = network.config.width
    weight = network.mix.reshape(3, 3, 3, width).transpose(2, 3, 0, 1)
    resize = bicubic_resize(graph, features, scale / network.config.overscale, "resize")
    exit_convolution = Convolution(np.ascontiguousarray(weight), network.exit_bias)
    detail = graph.convolution(resize, exit_convolution, "exit")
    return graph.node("Add", [detail, bicubic_resize(graph, centred, scale, "base")], "added")
