# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Attention down a tree: slide, regions, cells of a region. What is not looked at is not computed.

Each node has a distribution over its actions. Those of a slide, or of a region of an upper stage, are its regions;
those of a region of the last stage are its cells. The probability of a cell is the product along its path,

    P(cell) = product over stages of pi(region | node) x pi(cell | last node),

and all cells together have 1. A tree is made for one batch. It holds the nodes that were looked at, one table for each
stage; the first table holds the slides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol, Self

import torch
from torch import Tensor
from torch.nn.functional import pad

from monai_jsma.networks.drawing import Draw, draw_cells, draw_independently, is_possible
from monai_jsma.networks.jsma import negative_entropy
from monai_jsma.networks.patch_encoder import PatchSource
from monai_jsma.networks.samplers import PathDraw

__all__ = ["NodeAttention", "RegionSource", "SeenRegions", "ZoomTree"]

_IMPOSSIBLE = float("-inf")  # log probability
_UNSEEN = -1  # number of a node that was not looked at


class RegionSource(PatchSource, Protocol):
    """What a network zooms into: a :class:`~monai_jsma.data.PyramidBatch` or anything alike."""

    def region_grids(self, region_size: int) -> Sequence[tuple[int, int]]:
        """For each image the rows and columns of its regions."""

    def tissue_shares(self, region_size: int) -> Sequence[object]:
        """For each image the share of tissue of its regions, an array ``(regions,)``."""

    def regions(self, images: Sequence[int], regions: Sequence[int], region_size: int) -> Self:
        """Regions of the images as a batch of their own."""

    def thumbnails(self, size: tuple[int, int]) -> Tensor:
        """Thumbnails of all images ``(images, 3, height, width)``."""

    def extend(self, other: Self) -> None:
        """Add the images of another batch."""


class NodeAttention(NamedTuple):
    """The distributions of some nodes over their actions, -inf where there is no action or it is impossible.

    Attributes:
        log_prob: log pi ``(nodes, actions)``.
        log_prior: the neutral distribution ``(nodes, actions)``.
        log_drawn: what is drawn from: log pi, in training with attention dropout ``(nodes, actions)``.
    """

    log_prob: Tensor
    log_prior: Tensor
    log_drawn: Tensor


class SeenRegions(NamedTuple):
    """The regions of all stages that were looked at, for each slide those of the first stage first.

    Slides with fewer regions, and regions with fewer actions than others, are padded with 0.

    Attributes:
        paths: number of the region at every stage down to its own, -1 below: int64 ``(batch, regions, stages)``.
        probability: probability of coming to it ``(batch, regions)``.
        attention: its own distribution over its regions or cells ``(batch, regions, actions)``.
    """

    paths: Tensor
    probability: Tensor
    attention: Tensor


class _Nodes:
    """The nodes of one stage that were looked at.

    Attributes:
        source: their windows.
        images: number of the slide of each ``(nodes,)``.
        log_path: log probability of coming to each ``(nodes,)``.
        log_path_prior: the same by the neutral distributions ``(nodes,)``.
        attention: their distributions.
        children: for each action the number of the node that it leads to, -1 if that was not looked at
            ``(nodes, actions)``.
        regions: for each node the actions that lead to it ``(nodes, stages before)``.
    """

    def __init__(
        self,
        source: RegionSource,
        images: Tensor,
        *,
        log_path: Tensor,
        log_path_prior: Tensor,
        attention: NodeAttention,
        regions: Tensor,
    ) -> None:
        self.source = source
        self.images = images
        self.log_path = log_path
        self.log_path_prior = log_path_prior
        self.attention = attention
        self.regions = regions
        self.children = torch.full_like(attention.log_prob, _UNSEEN, dtype=torch.long)

    def __len__(self) -> int:
        return len(self.images)

    def extend(self, other: _Nodes) -> None:
        """Add nodes that were looked at later."""
        self.source.extend(other.source)
        for name in ("images", "log_path", "log_path_prior", "regions"):
            parts = [getattr(self, name), getattr(other, name)]
            setattr(self, name, torch.cat(parts))
        distributions = []
        for own, new in zip(self.attention, other.attention):
            distributions.append(_join_rows(own, new, padding=_IMPOSSIBLE))
        self.attention = NodeAttention(*distributions)
        self.children = _join_rows(self.children, other.children, padding=_UNSEEN)

    @property
    def log_left(self) -> Tensor:
        """Log probability of each action that leads to what was not looked at, -inf of all others, no gradient."""
        log_prob = self.log_path[:, None] + self.attention.log_prob
        was_seen = self.children != _UNSEEN
        return log_prob.detach().masked_fill(was_seen, _IMPOSSIBLE)


class ZoomTree:
    """The attention over all cells of a batch of slides, an :class:`~monai_jsma.networks.AttentionTree`.

    Args:
        slides: the slides.
        region_sizes: height and width of the regions of each stage in pixels of the finest magnification, from the
            slide downwards; at least one.
        attend: function that looks at windows. It gets the stage, 0 for the slides, the windows, and the number of the
            slide of each ``(windows,)``, and gives their distributions. Those of the last stage are over cells.
        device: where the numbers are.
        chunk_size: number of windows that are looked at at once outside of training.
    """

    def __init__(
        self,
        slides: RegionSource,
        region_sizes: Sequence[int],
        attend: Callable[[int, RegionSource, Tensor], NodeAttention],
        *,
        device: torch.device,
        chunk_size: int = 64,
    ) -> None:
        self.region_sizes = list(region_sizes)
        self.chunk_size = chunk_size
        self._attend = attend
        num_slides = len(slides.grids)
        images = torch.arange(num_slides, device=device)
        attention = attend(0, slides, images)
        certain = attention.log_prob.new_zeros(num_slides)
        root = _Nodes(
            slides,
            images,
            log_path=certain,
            log_path_prior=certain,
            attention=attention,
            regions=images.new_zeros(num_slides, 0),
        )
        self._stages: list[_Nodes | None] = [root] + [None] * len(self.region_sizes)
        self._paths: list[tuple[Tensor, Tensor]] = []  # of the last draw: nodes and actions at each stage
        self._starts = images.new_zeros(0)  # of each region of the last stage the number of its first cell
        self._num_known = images.new_zeros(num_slides)  # of each slide
        self.log_attention = certain.new_zeros(num_slides, 0)
        self.log_prior = certain.new_zeros(num_slides, 0)
        self._node_of = images.new_zeros(num_slides, 0)
        self._cell_of = images.new_zeros(num_slides, 0)

    # ------------------------------------------------------------------------------------------------ what is known

    @property
    def root(self) -> NodeAttention:
        """The distributions of the slides over their regions."""
        return self._nodes(0).attention

    @property
    def has_paths(self) -> bool:
        """Whether paths were drawn."""
        return bool(self._paths)

    @property
    def regions(self) -> RegionSource | None:
        """The regions of the last stage that were looked at, in that order; None before the first."""
        last = self._stages[-1]
        return None if last is None else last.source

    @property
    def slide_of_regions(self) -> list[int]:
        """For each of :attr:`regions` the number of its slide."""
        last = self._stages[-1]
        return [] if last is None else last.images.tolist()

    @property
    def unknown(self) -> Tensor:
        """Attention of all cells that are not known: float64 ``(batch,)``."""
        total = torch.zeros(len(self.root.log_prob), dtype=torch.float64, device=self._num_known.device)
        for nodes in self._stages[:-1]:
            if nodes is not None:
                left = nodes.log_left.double().exp().sum(dim=1)
                total = total.index_add(0, nodes.images, left)
        return total

    @property
    def num_looked_at(self) -> Tensor:
        """Number of regions of all stages that were looked at: int64 ``(batch,)``."""
        total = torch.zeros_like(self._num_known)
        for nodes in self._stages[1:]:
            if nodes is not None:
                total = total.index_add(0, nodes.images, torch.ones_like(nodes.images))
        return total

    def find_nodes(self, cells: Tensor) -> Tensor:
        """The number of the region in :attr:`regions` for each cell ``(batch, k)``."""
        return self._node_of.gather(1, cells)

    def find_regions(self, cells: Tensor) -> Tensor:
        """For each cell ``(batch, k)`` the number of its region at every stage, row by row: ``(batch, k, stages)``."""
        last = self._stages[-1]
        if last is None:
            return cells.new_zeros(*cells.shape, len(self.region_sizes))
        return last.regions[self.find_nodes(cells)]

    def find_cells(self, cells: Tensor) -> Tensor:
        """For each cell ``(batch, k)`` its flat index in its region."""
        return self._cell_of.gather(1, cells)

    def list_seen(self) -> SeenRegions:
        """The regions of all stages that were looked at, without gradient."""
        depth = len(self.region_sizes)
        root = self.root.log_prob.detach()
        images = self._num_known.new_zeros(0)
        paths = images.new_zeros(0, depth)
        probability = root.new_zeros(0)
        attention = root.new_zeros(0, 0)
        for nodes in self._stages[1:]:
            if nodes is None:
                continue
            missing = depth - nodes.regions.shape[1]
            images = torch.cat((images, nodes.images))
            paths = torch.cat((paths, pad(nodes.regions, (0, missing), value=_UNSEEN)))
            probability = torch.cat((probability, nodes.log_path.detach().exp()))
            attention = _join_rows(attention, nodes.attention.log_prob.detach().exp(), padding=0.0)

        counts = self.num_looked_at
        order = images.argsort(stable=True)
        slides = images[order]
        starts = counts.cumsum(0) - counts
        ranks = torch.arange(len(order), device=order.device) - starts[slides]
        most = int(counts.max()) if len(counts) else 0

        def pad_slides(rows: Tensor) -> Tensor:
            """Rows of all regions as those of each slide ``(batch, regions, ...)``."""
            padded = rows.new_zeros(len(counts), most, *rows.shape[1:])
            return padded.index_put((slides, ranks), rows[order])

        return SeenRegions(pad_slides(paths), pad_slides(probability), pad_slides(attention))

    # --------------------------------------------------------------------------------------------------------- draws

    def draw(self, k: int) -> PathDraw:
        """Draw k cells of each image, each independently down the tree; the regions on the way are looked at."""
        num_slides = len(self.root.log_prob)
        numbers = torch.arange(num_slides, device=self._num_known.device)
        numbers = numbers[:, None].expand(num_slides, k)
        actions, log_action = self._draw_actions(0, numbers)
        paths = [(numbers, log_action)]
        for stage in range(1, len(self._stages)):
            numbers = self._look_at(stage, numbers, actions)
            actions, log_action = self._draw_actions(stage, numbers)
            paths.append((numbers, log_action))
        self._paths = paths

        log_prob = torch.stack([log_action for _, log_action in paths]).sum(dim=0)
        cells = self._starts[numbers] + actions
        drawn = torch.ones_like(cells, dtype=torch.bool)
        weights = torch.full_like(log_prob, 1 / k).detach()
        return PathDraw(Draw(cells, weights, drawn), log_prob)

    def draw_systematically(self, k: int, max_regions: int | None = None) -> Draw:
        """Draw k different cells of each image, systematically stage by stage; the regions on the way are looked at.

        A stage sees the regions that were drawn before it, with their weights; the actions of all of them together are
        one distribution, from which the next ones are drawn as from that of a picture. Each draw is unbiased given
        those before it, so the whole is.

        Args:
            k: number of cells of each image.
            max_regions: largest number of regions of each image that are drawn at each stage; without it k are.
        """
        num_regions = k if max_regions is None else min(k, max_regions)
        num_slides = len(self.root.log_prob)
        numbers = torch.arange(num_slides, device=self._num_known.device)[:, None]  # of the nodes: (batch, nodes)
        weights = torch.ones_like(numbers, dtype=torch.float64)
        for stage in range(1, len(self._stages)):
            draw, parents, actions = self._draw_from_nodes(stage - 1, numbers, weights, count=num_regions)
            children = self._look_at(stage, parents[draw.drawn], actions[draw.drawn])
            numbers = torch.zeros_like(parents).masked_scatter(draw.drawn, children)
            weights = draw.weights
        draw, parents, actions = self._draw_from_nodes(len(self._stages) - 1, numbers, weights, count=k)
        cells = self._starts[parents] + actions
        return Draw(cells * draw.drawn, draw.weights.to(self.root.log_prob.dtype), draw.drawn)

    def _draw_from_nodes(
        self, stage: int, numbers: Tensor, weights: Tensor, *, count: int
    ) -> tuple[Draw, Tensor, Tensor]:
        """Draw different actions of each image from the joint distribution of some of its nodes.

        Args:
            stage: stage of the nodes.
            numbers: the nodes ``(batch, nodes)``.
            weights: the share of each in the joint distribution, 0 where there is none: float64 ``(batch, nodes)``.
            count: number of actions; fewer where no more are possible.

        Returns:
            the draw, and the node and the action of each of its cells ``(batch, count)``.
        """
        log_prob = self._nodes(stage).attention.log_prob.detach()
        joint = weights.log()[:, :, None] + log_prob[numbers]  # (batch, nodes, actions)
        draw = draw_cells(joint.flatten(1), count, "systematic")
        # Marks have no order. In the order of the nodes, what is drawn next depends on the drawn set alone.
        order = draw.cells.masked_fill(~draw.drawn, joint[0].numel()).argsort(dim=1)
        draw = Draw(*(part.gather(1, order) for part in draw))
        num_actions = log_prob.shape[1]
        places = draw.cells // num_actions
        return draw, numbers.gather(1, places), draw.cells % num_actions

    def _draw_actions(self, stage: int, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """One action of each of the nodes ``(batch, k)`` and its log probability, which is differentiable."""
        log_drawn = self._nodes(stage).attention.log_drawn
        without_gradient = log_drawn.detach()
        rows = without_gradient[numbers].flatten(0, 1)  # (batch * k, actions)
        drawn = draw_independently(rows, 1)  # (batch * k, 1)
        actions = drawn.view(numbers.shape)
        return actions, log_drawn[numbers, actions]

    def estimate_divergence(self) -> Tensor:
        """Divergence of P from the neutral distribution, from the paths of the last draw: ``(batch,)``.

        See :meth:`estimate_negative_entropy`.
        """
        return self._average_over_paths(_measure_divergence, self._paths)

    def estimate_zoom_divergence(self) -> Tensor:
        """The same of the zoom alone, the choice of regions: all stages but the last ``(batch,)``."""
        return self._average_over_paths(_measure_divergence, self._paths[:-1])

    def estimate_negative_entropy(self) -> Tensor:
        """``sum P log P`` of each image, from the paths of the last draw: ``(batch,)``.

        Of the joint distribution it is the mean over all paths of the sum over their nodes. Where a path leads depends
        on the attention of the upper stages: their gradient needs a score function,

        ``R = 1/k sum_s sum_d [R_(s,d) + sg(sum_{d'>d} R_(s,d')) log pi_(s,d)]``,

        of which the value is that of the first term. Value and gradient are unbiased.
        """
        return self._average_over_paths(_measure_negative_entropy, self._paths)

    def estimate_zoom_negative_entropy(self) -> Tensor:
        """The same of the zoom alone, the choice of regions: all stages but the last ``(batch,)``."""
        return self._average_over_paths(_measure_negative_entropy, self._paths[:-1])

    def _average_over_paths(
        self, measure: Callable[[NodeAttention], Tensor], paths: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        total = torch.zeros_like(paths[0][1])  # (batch, k)
        below = torch.zeros_like(total)  # of all later stages
        for stage in reversed(range(len(paths))):
            numbers, log_action = paths[stage]
            of_node = measure(self._nodes(stage).attention)[numbers]  # (batch, k)
            zero = log_action - log_action.detach()
            total = total + of_node + below * zero
            below = below + of_node.detach()
        return total.mean(dim=1)

    # ---------------------------------------------------------------------------------------------------- best first

    def reveal_best(self, number: int, wanted: Tensor) -> None:
        """Look at regions, those of the highest probability first, until the best cells are known.

        No unknown cell can have more attention than the region that it lies in. So it is enough that no region that was
        not looked at has more than the last of the ``number`` cells.

        Args:
            number: number of cells of each image.
            wanted: bool ``(batch,)``, the images that need them.
        """
        while True:
            found = self._find_best_left(number, wanted)
            if not found:
                return
            for stage in sorted({place[0] for place in found}):
                places = [place[1:] for place in found if place[0] == stage]
                numbers, actions = torch.tensor(places, device=self._num_known.device).unbind(1)
                self._look_at(stage + 1, numbers, actions)

    def _find_best_left(self, number: int, wanted: Tensor) -> list[tuple[int, int, int]]:
        """Stage, node and action of the most probable region of each image that has to be looked at."""
        least = self._find_least(number)
        least_of_image = least.masked_fill(~wanted, float("inf")).tolist()
        places: dict[int, tuple[int, int, int]] = {}
        values: dict[int, float] = {}
        for stage, nodes in enumerate(self._stages[:-1]):
            if nodes is None:
                continue
            best, actions = nodes.log_left.max(dim=1)
            candidates = zip(nodes.images.tolist(), best.tolist(), actions.tolist())
            for node, (image, value, action) in enumerate(candidates):
                if value == _IMPOSSIBLE or value < least_of_image[image]:
                    continue
                if value > values.get(image, _IMPOSSIBLE):
                    values[image] = value
                    places[image] = (stage, node, action)
        return list(places.values())

    def _find_least(self, number: int) -> Tensor:
        """Log attention of the last of the best ``number`` cells ``(batch,)``; -inf where fewer are known."""
        log_attention = self.log_attention.detach()
        batch, num_known = log_attention.shape
        if number == 0:
            return log_attention.new_full((batch,), float("inf"))
        if num_known < number:
            return log_attention.new_full((batch,), _IMPOSSIBLE)
        best = log_attention.topk(number, dim=1).values
        return best[:, -1]

    def reveal_all(self) -> None:
        """Look at all regions that can be drawn."""
        for stage in range(len(self.region_sizes)):
            is_left = is_possible(self._nodes(stage).log_left)
            numbers, actions = torch.nonzero(is_left, as_tuple=True)
            self._look_at(stage + 1, numbers, actions)

    # ------------------------------------------------------------------------------------------------- growth

    def _nodes(self, stage: int) -> _Nodes:
        nodes = self._stages[stage]
        assert nodes is not None, "a stage is looked at before it is asked for"
        return nodes

    def _look_at(self, stage: int, parents: Tensor, actions: Tensor) -> Tensor:
        """The nodes of a stage that actions lead to; those that are new are looked at, each once.

        Args:
            stage: stage of the nodes.
            parents: nodes of the stage before, of any shape.
            actions: their actions, of the same shape.
        """
        above = self._nodes(stage - 1)
        is_new = above.children[parents, actions] == _UNSEEN
        pairs = torch.stack((parents[is_new], actions[is_new]), dim=1)
        pairs = torch.unique(pairs, dim=0)  # in the order of the images: a batch is looked at as its images alone are
        size = max(1, len(pairs)) if torch.is_grad_enabled() else self.chunk_size
        known = self._stages[stage]
        num_known = 0 if known is None else len(known)
        for chunk in pairs.split(size):
            if len(chunk) or self._stages[stage] is None:
                self._add_nodes(stage, chunk)
        if stage == len(self._stages) - 1:
            self._add_cells(num_known)
        return above.children[parents, actions]

    def _add_nodes(self, stage: int, pairs: Tensor) -> None:
        above = self._nodes(stage - 1)
        parents, actions = pairs.unbind(1)
        images = above.images[parents]
        region_size = self.region_sizes[stage - 1]
        source = above.source.regions(parents.tolist(), actions.tolist(), region_size)
        log_path = above.log_path[parents] + above.attention.log_prob[parents, actions]
        log_path_prior = above.log_path_prior[parents] + above.attention.log_prior[parents, actions]
        regions = torch.cat((above.regions[parents], actions[:, None]), dim=1)
        new = _Nodes(
            source,
            images,
            log_path=log_path,
            log_path_prior=log_path_prior,
            attention=self._attend(stage, source, images),
            regions=regions,
        )
        known = self._stages[stage]
        first = 0 if known is None else len(known)
        numbers = torch.arange(first, first + len(images), device=images.device)
        if stage == len(self._stages) - 1:
            self._number_cells(new)
        if known is None:
            self._stages[stage] = new
        else:
            known.extend(new)
        above.children[parents, actions] = numbers

    def _number_cells(self, nodes: _Nodes) -> None:
        """Number the cells of new regions after those of their slides that are known."""
        num_cells = is_possible(nodes.attention.log_prior).sum(dim=1).tolist()
        known = self._num_known.tolist()
        starts = []
        for image, number in zip(nodes.images.tolist(), num_cells):
            starts.append(known[image])
            known[image] += number
        self._starts = torch.cat((self._starts, self._starts.new_tensor(starts)))
        self._num_known = self._num_known.new_tensor(known)

    def _add_cells(self, first: int) -> None:
        """Put the cells of regions of the last stage in the order of their numbers; those of others stay as they are.

        Args:
            first: number of the first region whose cells are new.
        """
        last = self._nodes(len(self._stages) - 1)
        node, cell = torch.nonzero(is_possible(last.attention.log_prior[first:]), as_tuple=True)
        node = node + first
        place = (last.images[node], self._starts[node] + cell)
        log_prob = last.log_path[node] + last.attention.log_prob[node, cell]
        log_prior = last.log_path_prior[node] + last.attention.log_prior[node, cell]

        num_cells = int(self._num_known.max()) if len(self._num_known) else 0
        missing = (0, num_cells - self.log_attention.shape[1])
        self.log_attention = pad(self.log_attention, missing, value=_IMPOSSIBLE).index_put(place, log_prob)
        self.log_prior = pad(self.log_prior, missing, value=_IMPOSSIBLE).index_put(place, log_prior)
        self._node_of = pad(self._node_of, missing).index_put(place, node)
        self._cell_of = pad(self._cell_of, missing).index_put(place, cell)


def _measure_divergence(attention: NodeAttention) -> Tensor:
    return negative_entropy(attention.log_prob, attention.log_prior)


def _measure_negative_entropy(attention: NodeAttention) -> Tensor:
    return negative_entropy(attention.log_prob)


def _join_rows(first: Tensor, second: Tensor, *, padding: float) -> Tensor:
    """Rows of two matrices as one, the shorter ones padded."""
    width = max(first.shape[1], second.shape[1])
    parts = []
    for rows in (first, second):
        missing = width - rows.shape[1]
        padded = pad(rows, (0, missing), value=padding)
        parts.append(padded)
    return torch.cat(parts)
