"""The feature extractor without its concatenations.

A 1x1 convolution over concatenated tensors is the sum of 1x1 convolutions over each. So nothing is concatenated: as
soon as a tensor is computed, its share is added to the sum of every reduction that takes it, and the tensor can be
freed. At 640x360 in FP16, TensorRT-RTX needs a fifth less activation memory, for the same multiply-accumulates.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.network.deploy import Convolution, DeployedBlock, DeployedGroup, DeployedNetwork

# The number of slices of the widest tensor, a block's expansion, in the lean-memory form. More save little more.
LEAN_SLICES = 3


def features(graph: GraphBuilder, network: DeployedNetwork, centred: str, *, lean_memory: bool = False) -> str:
    """Add the feature extractor.

    Args:
        centred: the image in levels, less the mean, N x 3 x H x W.
        lean_memory: compute each block's expansion in slices: the same results, less memory, more and smaller steps.

    Returns:
        N x width x H x W.
    """
    slices = LEAN_SLICES if lean_memory else 1
    entry = graph.convolution(centred, network.entry, "entry")
    # Computed first, although it is used at the end, so that the entry can be freed before.
    mean = graph.node("GlobalAveragePool", [entry], "global_skip.mean")
    skip = graph.convolution(mean, network.global_skip, "global_skip", relu=True)
    members = [partial(_group, graph, group, slices, f"group.{index}") for index, group in enumerate(network.groups)]
    fused = ""
    for index, reduced in enumerate(_dense(graph, members, network.reductions, entry, "reduction")):
        # The fusion takes the reductions, not the entry: its first share is the first reduction's.
        fused = _share(graph, network.fusion, reduced, index, fused, "fusion", bias=index == 0)
    fused = graph.scaled(graph.node("Relu", [fused], "fusion.relu"), network.residual_scale, "fused")
    return graph.node("Add", [fused, graph.scaled(skip, network.skip_scale, "skip")], "features")


def _dense(
    graph: GraphBuilder, members: Sequence[Callable[[str], str]], reductions: list[Convolution], x: str, name: str
) -> Iterator[str]:
    """Add members and reductions in turn, and yield each reduction's output; it takes `x` and all members so far."""
    sums = [
        _share(graph, reduction, x, 0, "", f"{name}.{index}", bias=True) for index, reduction in enumerate(reductions)
    ]
    for index, member in enumerate(members):
        output = member(x)
        for later in range(index, len(reductions)):
            part = f"{name}.{later}"
            sums[later] = _share(graph, reductions[later], output, index + 1, sums[later], part, bias=False)
        x = graph.node("Relu", [sums[index]], f"{name}.{index}.relu")
        yield x


def _share(
    graph: GraphBuilder, reduction: Convolution, member: str, place: int, total: str, name: str, *, bias: bool
) -> str:
    """Add the share of one of the concatenated tensors in a 1x1 convolution to the sum so far ("" for none)."""
    width = reduction.weight.shape[0]
    weight = np.ascontiguousarray(reduction.weight[:, place * width : (place + 1) * width])
    share = graph.convolution(member, Convolution(weight, reduction.bias if bias else None), f"{name}.share.{place}")
    return graph.node("Add", [total, share], f"{name}.sum.{place}") if total else share


def _group(graph: GraphBuilder, group: DeployedGroup, slices: int, name: str, x: str) -> str:
    blocks = enumerate(group.blocks)
    members = [partial(_block, graph, block, slices, f"{name}.block.{index}") for index, block in blocks]
    *_, last = _dense(graph, members, group.reductions, x, f"{name}.reduction")
    return last


def _block(graph: GraphBuilder, block: DeployedBlock, slices: int, name: str, x: str) -> str:
    y = ""
    for index, part in enumerate(np.array_split(np.arange(block.expand.weight.shape[0]), slices)):
        expand = Convolution(block.expand.weight[part], None if block.expand.bias is None else block.expand.bias[part])
        reduce = Convolution(
            np.ascontiguousarray(block.reduce.weight[:, part]), block.reduce.bias if index == 0 else None
        )
        expanded = graph.convolution(x, expand, f"{name}.expand.{index}", relu=True)
        narrowed = graph.convolution(expanded, reduce, f"{name}.reduce.{index}")
        y = graph.node("Add", [y, narrowed], f"{name}.reduce.{index}.sum") if y else narrowed
    y = graph.convolution(y, block.spatial, f"{name}.spatial")
    # The block's learned scale is applied to the N x width x 1 x 1 excitation, where a product costs nothing.
    excited = graph.scaled(excitation(graph, block, y, name), block.residual_scale, f"{name}.excitation")
    weighed = graph.node("Mul", [y, excited], f"{name}.weighed")
    return graph.node("Add", [weighed, graph.scaled(x, block.skip_scale, f"{name}.skip")], f"{name}.added")


def excitation(graph: GraphBuilder, block: DeployedBlock, y: str, name: str) -> str:
    """Add a block's squeeze-and-excitation: N x width x H x W to a factor for each channel, N x width x 1 x 1."""
    mean = graph.node("GlobalAveragePool", [y], f"{name}.mean")
    narrow = graph.convolution(mean, block.narrow, f"{name}.narrow", relu=True)
    return graph.node("Sigmoid", [graph.convolution(narrow, block.widen, f"{name}.widen")], f"{name}.excitation")
