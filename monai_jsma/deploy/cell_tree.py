# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The attention over the cells of an image, as far as it is known, in arrays: all of it, or a tree that grows.

What :class:`~monai_jsma.networks.ZoomTree` does for a batch of slides, for one. All regions of one stage have the same
size, and so the same number of regions or cells: the number of a cell is that of its region, and of its place there.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monai_jsma.data.pyramid import Pyramid
from monai_jsma.deploy.array_drawing import CellDraw, pick_independently, pick_systematically
from monai_jsma.deploy.random_stream import RandomStream

__all__ = ["AllCells", "CellTree", "KnownCells"]

_UNSEEN = -1  # number of a node that was not looked at


class KnownCells(ABC):
    """The cells of an image of which the attention is known.

    Attributes:
        log_attention: their log attention ``(cells,)``, float32.
        unknown: attention of all others, 0 and not nearly 0 if there are none.
    """

    log_attention: np.ndarray

    @property
    @abstractmethod
    def unknown(self) -> float:
        """Attention of the cells that are not known."""

    @abstractmethod
    def reveal_best(self, number: int) -> None:
        """Look at what must be looked at for the ``number`` cells of highest attention to be known."""

    @abstractmethod
    def reveal_all(self) -> None:
        """Look at everything."""

    @abstractmethod
    def find_place(self, cell: int) -> tuple[Pyramid, int, tuple[int, ...]]:
        """The pyramid that a cell lies in, its flat index there, and the region at each stage that leads to it."""


class AllCells(KnownCells):
    """The cells of an image without regions.

    Args:
        log_attention: log attention of all cells ``(cells,)``.
        image: the image.
    """

    def __init__(self, log_attention: np.ndarray, image: Pyramid) -> None:
        self.log_attention = log_attention
        self.image = image

    @property
    def unknown(self) -> float:
        """0."""
        return 0.0

    def reveal_best(self, number: int) -> None:
        """All are known."""

    def reveal_all(self) -> None:
        """All are known."""

    def find_place(self, cell: int) -> tuple[Pyramid, int, tuple[int, ...]]:
        """The image, the cell itself, and no region."""
        return self.image, cell, ()


@dataclass(kw_only=True)
class _Nodes:
    """The windows of one stage that were looked at.

    Args:
        windows: the slide, or regions of it.
        paths: for each the regions that lead to it ``(nodes, stages before)``.
        log_path: log probability of coming to each ``(nodes,)``.
        log_prob: its own distribution ``(nodes, actions)``.
        children: for each action the number of the node that it leads to ``(nodes, actions)``.
    """

    windows: list[Pyramid]
    paths: np.ndarray
    log_path: np.ndarray
    log_prob: np.ndarray
    children: np.ndarray

    @property
    def log_left(self) -> np.ndarray:
        """Log probability of each action that leads to what was not looked at; -inf of all others."""
        log_prob = self.log_path[:, None] + self.log_prob
        return np.where(self.children == _UNSEEN, log_prob, -np.inf)

    def extend(self, other: _Nodes) -> None:
        """Add nodes that were looked at later."""
        self.windows += other.windows
        for name in ("paths", "log_path", "log_prob", "children"):
            parts = (getattr(self, name), getattr(other, name))
            setattr(self, name, np.concatenate(parts))


class CellTree(KnownCells):
    """The cells of the regions of a slide that were looked at.

    Args:
        slide: the slide.
        region_sizes: height and width of the regions of each stage, in pixels of the finest magnification.
        attend: function that gives the log probabilities ``(windows, actions)`` of windows of a stage.
        chunk_size: number of windows that are looked at at once.
    """

    def __init__(
        self,
        slide: Pyramid,
        region_sizes: Sequence[int],
        attend: Callable[[int, list[Pyramid]], np.ndarray],
        *,
        chunk_size: int = 64,
    ) -> None:
        self.region_sizes = list(region_sizes)
        self.chunk_size = chunk_size
        self._attend = attend
        root = self._make_nodes(0, [slide], paths=np.zeros((1, 0), int), log_path=np.zeros(1, np.float32))
        self._stages: list[_Nodes | None] = [root] + [None] * len(self.region_sizes)
        self.log_attention = np.zeros(0, np.float32)

    @property
    def root(self) -> np.ndarray:
        """Log probabilities of the regions of the slide."""
        return self._nodes(0).log_prob[0]

    @property
    def unknown(self) -> float:
        """Attention of the cells of regions that were not looked at."""
        total = 0.0
        for nodes in self._stages[:-1]:
            if nodes is not None:
                total += float(np.exp(nodes.log_left.astype(np.float64)).sum())
        return total

    @property
    def num_looked_at(self) -> int:
        """Number of regions of all stages that were looked at."""
        return sum(len(nodes.windows) for nodes in self._stages[1:] if nodes is not None)

    def find_place(self, cell: int) -> tuple[Pyramid, int, tuple[int, ...]]:
        """The region of the last stage, the cell in it, and the regions that lead to it."""
        last = self._nodes(len(self.region_sizes))
        node, place = divmod(cell, last.log_prob.shape[1])
        return last.windows[node], place, tuple(last.paths[node].tolist())

    def draw(self, k: int, stream: RandomStream) -> np.ndarray:
        """Draw k cells, each independently down the tree: their numbers ``(k,)``."""
        nodes = np.zeros(k, int)
        actions = self._draw_actions(0, nodes, stream)
        for stage in range(1, len(self._stages)):
            nodes = self._look_at(stage, nodes, actions)
            actions = self._draw_actions(stage, nodes, stream)
        return nodes * self._nodes(len(self.region_sizes)).log_prob.shape[1] + actions

    def draw_systematically(self, k: int, max_regions: int | None, stream: RandomStream) -> CellDraw:
        """Draw k different cells systematically, stage by stage.

        Args:
            k: number of cells.
            max_regions: largest number of regions that are drawn at each stage; None: k.
            stream: source of randomness.
        """
        num_regions = k if max_regions is None else min(k, max_regions)
        nodes = np.zeros(1, int)
        weights = np.ones(1)
        for stage in range(1, len(self._stages)):
            draw, parents, actions = self._draw_from_nodes(stage - 1, nodes, weights, count=num_regions, stream=stream)
            nodes = np.zeros_like(parents)  # what was not drawn has no weight
            nodes[draw.drawn] = self._look_at(stage, parents[draw.drawn], actions[draw.drawn])
            weights = draw.weights
        last = len(self._stages) - 1
        draw, parents, actions = self._draw_from_nodes(last, nodes, weights, count=k, stream=stream)
        cells = parents * self._nodes(last).log_prob.shape[1] + actions
        return CellDraw(cells * draw.drawn, draw.weights.astype(np.float32), draw.drawn)

    def _draw_from_nodes(
        self, stage: int, nodes: np.ndarray, weights: np.ndarray, *, count: int, stream: RandomStream
    ) -> tuple[CellDraw, np.ndarray, np.ndarray]:
        """Draw different actions from the joint distribution of some nodes, in the order of the nodes.

        Args:
            stage: stage of the nodes.
            nodes: their numbers ``(nodes,)``.
            weights: the share of each in the joint distribution ``(nodes,)``.
            count: number of actions.
            stream: source of randomness.

        Returns:
            the draw, and the node and the action of each of its cells.
        """
        log_prob = self._nodes(stage).log_prob
        with np.errstate(divide="ignore"):
            log_weights = np.log(weights)
        joint = log_weights[:, None] + log_prob[nodes]  # (nodes, actions), float64
        draw = pick_systematically(joint.ravel(), count, stream)
        order = np.argsort(np.where(draw.drawn, draw.cells, joint.size), kind="stable")
        draw = CellDraw(*(part[order] for part in draw))
        places, actions = np.divmod(draw.cells, log_prob.shape[1])
        return draw, nodes[places], actions

    def _draw_actions(self, stage: int, nodes: np.ndarray, stream: RandomStream) -> np.ndarray:
        rows = self._nodes(stage).log_prob[nodes]
        drawn = [pick_independently(row, 1, stream) for row in rows]
        return np.concatenate(drawn)

    def reveal_best(self, number: int) -> None:
        """Look at regions, the most probable first, until none that is left can hold one of the best cells."""
        while True:
            place = self._find_best_left(self._find_least(number))
            if place is None:
                return
            stage, node, action = place
            self._look_at(stage + 1, np.array([node]), np.array([action]))

    def _find_least(self, number: int) -> float:
        """Log attention of the last of the best ``number`` cells; -inf where fewer are known."""
        if number == 0:
            return np.inf
        if len(self.log_attention) < number:
            return -np.inf
        return float(np.sort(self.log_attention)[-number])

    def _find_best_left(self, least: float) -> tuple[int, int, int] | None:
        """Stage, node and action of the most probable region that may hold a cell above ``least``."""
        best = None
        highest = -np.inf
        for stage, nodes in enumerate(self._stages[:-1]):
            if nodes is None:
                continue
            log_left = nodes.log_left
            node, action = np.unravel_index(log_left.argmax(), log_left.shape)
            value = log_left[node, action]
            if value > highest and value >= least:
                highest = value
                best = (stage, int(node), int(action))
        return best

    def reveal_all(self) -> None:
        """Look at all regions that can be drawn."""
        for stage in range(len(self.region_sizes)):
            nodes, actions = np.nonzero(self._nodes(stage).log_left != -np.inf)
            self._look_at(stage + 1, nodes, actions)

    def _nodes(self, stage: int) -> _Nodes:
        nodes = self._stages[stage]
        assert nodes is not None, "a stage is looked at before it is asked for"
        return nodes

    def _look_at(self, stage: int, parents: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """The nodes of a stage that actions lead to; those that are new are looked at, each once."""
        above = self._nodes(stage - 1)
        is_new = above.children[parents, actions] == _UNSEEN
        pairs = np.stack((parents[is_new], actions[is_new]), axis=1)
        pairs = np.unique(pairs, axis=0)
        for start in range(0, len(pairs), self.chunk_size):
            self._add_nodes(stage, pairs[start : start + self.chunk_size])
        return above.children[parents, actions]

    def _add_nodes(self, stage: int, pairs: np.ndarray) -> None:
        above = self._nodes(stage - 1)
        parents = pairs[:, 0]
        actions = pairs[:, 1]
        region_size = self.region_sizes[stage - 1]
        windows = [above.windows[parent].region(action, region_size) for parent, action in pairs.tolist()]
        new = self._make_nodes(
            stage,
            windows,
            paths=np.concatenate((above.paths[parents], actions[:, None]), axis=1),
            log_path=above.log_path[parents] + above.log_prob[parents, actions],
        )
        known = self._stages[stage]
        first = 0 if known is None else len(known.windows)
        above.children[parents, actions] = np.arange(first, first + len(windows))
        if stage == len(self._stages) - 1:
            log_prob = new.log_path[:, None] + new.log_prob
            self.log_attention = np.concatenate((self.log_attention, log_prob.ravel()))
        if known is None:
            self._stages[stage] = new
        else:
            known.extend(new)

    def _make_nodes(self, stage: int, windows: list[Pyramid], *, paths: np.ndarray, log_path: np.ndarray) -> _Nodes:
        log_prob = self._attend(stage, windows)
        children = np.full(log_prob.shape, _UNSEEN)
        return _Nodes(windows=windows, paths=paths, log_path=log_path, log_prob=log_prob, children=children)
