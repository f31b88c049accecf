"""The feature extractor, without its concatenations.

A 1x1 convolution over concatenated tensors is the sum of 1x1 convolutions over each. So nothing is concatenated: as
soon as a tensor is there, its share is added to the sum of every reduction it goes into, and it can be dropped. At
640x360 in FP16, TensorRT-RTX's activation memory falls by a fifth, for the same multiply-accumulates.
"""

from __future__ import annotations

import numpy as np

from overnet.export.graph.builder import GraphBuilder
from overnet.network.deploy import Convolution, DeployedBlock, DeployedGroup, DeployedNetwork

# Into how many slices the widest tensor, a block's expansion, is cut where memory is short. More save little more.
LEAN_SLICES = 3


def features(graph: GraphBuilder, network: DeployedNetwork, centred: str, *, lean_memory: bool = False) -> str:
    """Add the feature extractor.

    Args:
        centred: the image in levels, less the mean, N x 3 x H x W.
        lean_memory: compute each block's expansion in slices: the same numbers, less memory, more and smaller steps.

    Returns:
        N x width x H x W.
    """
    slices = LEAN_SLICES if lean_memory else 1
    entry = graph.convolution(centred, network.entry, "entry")
    # At once, though it is used at the end, so that the entry need not be kept till then.
    mean = graph.mean_over_image(entry, "global_skip.mean")
    skip = graph.convolution(mean, network.global_skip, "global_skip", relu=True)
    sums = _Sums(graph, network.reductions, entry, "reduction")
    reduced, fused = entry, ""
    for index, group in enumerate(network.groups):
        local = _group(graph, group, reduced, slices, f"group.{index}")
        sums.add(local)
        reduced = sums.take(index)
        # The fusion sees the reductions alone, not the entry: its first share is the first reduction's.
        fused = _share(graph, network.fusion, reduced, index, fused, "fusion", bias=index == 0)
    fused = graph.node("Relu", [fused], "fusion.relu")
    fused = graph.scaled(fused, network.residual_scale, "fused")
    return graph.node("Add", [fused, graph.scaled(skip, network.skip_scale, "skip")], "features")


class _Sums:
    """The reductions of one dense group, each the growing sum of its members' shares."""

    def __init__(self, graph: GraphBuilder, reductions: list[Convolution], first: str, name: str) -> None:
        self._graph, self._reductions, self._name = graph, reductions, name
        self._members = 1
        self._sums = [
            _share(graph, reduction, first, 0, "", f"{name}.{index}", bias=True)
            for index, reduction in enumerate(reductions)
        ]

    def add(self, member: str) -> None:
        """Add the next member's share to every reduction it goes into: its own and all later ones."""
        for index in range(self._members - 1, len(self._reductions)):
            self._sums[index] = _share(
                self._graph,
                self._reductions[index],
                member,
                self._members,
                self._sums[index],
                f"{self._name}.{index}",
                bias=False,
            )
        self._members += 1

    def take(self, index: int) -> str:
        """The reduction's output, when all its members have been added."""
        return self._graph.node("Relu", [self._sums[index]], f"{self._name}.{index}.relu")


def _share(
    graph: GraphBuilder, reduction: Convolution, member: str, place: int, total: str, name: str, *, bias: bool
) -> str:
    """Add what one of the concatenated tensors contributes to a 1x1 convolution to the sum so far ("" for none)."""
    width = reduction.weight.shape[0]
    weight = np.ascontiguousarray(reduction.weight[:, place * width : (place + 1) * width])
    share = graph.convolution(member, Convolution(weight, reduction.bias if bias else None), f"{name}.share.{place}")
    return graph.node("Add", [total, share], f"{name}.sum.{place}") if total else share


def _group(graph: GraphBuilder, group: DeployedGroup, x: str, slices: int, name: str) -> str:
    sums = _Sums(graph, group.reductions, x, f"{name}.reduction")
    for index, block in enumerate(group.blocks):
        sums.add(_block(graph, block, x, slices, f"{name}.block.{index}"))
        x = sums.take(index)
    return x


def _block(graph: GraphBuilder, block: DeployedBlock, x: str, slices: int, name: str) -> str:
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
    excitation = graph.mean_over_image(y, f"{name}.mean")
    excitation = graph.convolution(excitation, block.narrow, f"{name}.narrow", relu=True)
    excitation = graph.convolution(excitation, block.widen, f"{name}.widen")
    excitation = graph.node("Sigmoid", [excitation], f"{name}.excitation")
    # The block's learned scalar rides on the N x width x 1 x 1 excitation, where a product costs nothing.
    excitation = graph.scaled(excitation, block.residual_scale, f"{name}.excitation")
    weighed = graph.node("Mul", [y, excitation], f"{name}.weighed")
    return graph.node("Add", [weighed, graph.scaled(x, block.skip_scale, f"{name}.skip")], f"{name}.added")
