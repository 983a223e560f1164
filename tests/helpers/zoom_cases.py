# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Slides that are trees of tables, small enough to be enumerated: attention of each node, features of each cell.

A slide is a nested list; a number in it is a region of so many cells, and None a region without tissue:
``[[2, 3], None, [1]]`` has three regions of regions, of which the second is never looked at.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.networks import BagClassifier, ConvBackbone, JSMANet, NodeAttention, PatchEncoder, ZoomNet, ZoomStage

Path = tuple[int, ...]


class TableWindows:
    """Windows of such slides; ``paths`` are the slide's number, then the regions. It counts what is looked at."""

    def __init__(self, slides: Sequence[list], paths: Sequence[Path] | None = None, *, parent=None) -> None:
        self.slides = slides
        self.paths = [(i,) for i in range(len(slides))] if paths is None else list(paths)
        self.looked_at: Counter[Path] = Counter() if parent is None else parent.looked_at
        self.read_cells: Counter[Path] = Counter() if parent is None else parent.read_cells
        self.numbers = number_cells(slides) if parent is None else parent.numbers

    @property
    def grids(self) -> list:
        return [((1, node),) if isinstance(node := find_node(self.slides, path), int) else () for path in self.paths]

    def regions(self, images, regions, region_size):
        paths = [(*self.paths[image], region) for image, region in zip(images, regions, strict=True)]
        return TableWindows(self.slides, paths, parent=self)

    def thumbnails(self, size) -> Tensor:
        self.looked_at.update(self.paths)
        return torch.zeros(len(self.paths), 3, *size)

    def extend(self, other) -> None:
        self.paths += other.paths

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        leaves = [(*self.paths[i], c) for i, c in zip(pictures.tolist(), cells.tolist(), strict=True)]
        self.read_cells.update(leaves)
        return torch.tensor([self.numbers[leaf] for leaf in leaves])[:, None, None, None].double()


def find_node(slides: Sequence[list], path: Path) -> list | int | None:
    node = slides
    for step in path:
        node = node[step]
    return node


def list_nodes(slides: Sequence[list]) -> Iterator[Path]:
    """Paths of all nodes that can be looked at, upper ones first."""

    def descend(path: Path) -> Iterator[Path]:
        node = find_node(slides, path)
        if node is not None:
            yield path
        if isinstance(node, list):
            for child in range(len(node)):
                yield from descend((*path, child))

    for slide in range(len(slides)):
        yield from descend((slide,))


def number_cells(slides: Sequence[list]) -> dict[Path, int]:
    """A number for each cell of all slides, in flat order."""
    cells = []
    for path in list_nodes(slides):
        node = find_node(slides, path)
        if isinstance(node, int):
            cells += [(*path, cell) for cell in range(node)]
    return {cell: number for number, cell in enumerate(cells)}


class RowsEncoder(PatchEncoder):
    """Features are rows of a table; a patch holds the number of its row. They have length 1 if ``unit``."""

    def __init__(self, features: Tensor, *, unit: bool = False, non_negative: bool = False) -> None:
        backbone = ConvBackbone((8,)) if non_negative else SignedBackbone()
        backbone.num_features = features.shape[1]
        super().__init__(backbone, feature_norm="l2" if unit else None)
        self.features = nn.Parameter(features)

    def pool(self, patches: Tensor) -> Tensor:
        return self.features[patches[:, 0, 0, 0].long()]


class SignedBackbone(nn.Identity):
    """A backbone of which nothing is known."""

    num_features = 8


class TableZoomNet(ZoomNet):
    """ZoomNet whose attention and features are tables: float64."""

    def __init__(
        self, slides: Sequence[list], *, sampler=None, classes=3, seed=0, spread=1.0, sharpness=2.0, **encoder
    ):
        torch.manual_seed(seed)
        num_cells = len(number_cells(slides))
        features = torch.randn(num_cells, 4)
        if encoder.get("non_negative"):
            features = features.abs()
        f = RowsEncoder(features, **encoder)
        region = JSMANet(
            classes,
            (1.0,),
            weights=None,
            thumbnail_encoder=ConvBackbone((8,)),
            patch_encoder=f,
            attention_dropout=0.0,
            dropout=0.0,
        )
        nn.init.normal_(region.classifier.weight, std=sharpness)
        depth = max(len(path) for path in list_nodes(slides)) - 1
        stages = [ZoomStage(ConvBackbone((8,)), 8, (8, 8)) for _ in range(depth)]
        super().__init__(region, stages, sampler=sampler)
        self.logits = nn.ParameterDict()
        self.priors = {}
        for path in list_nodes(slides):
            node = find_node(slides, path)
            exists = [child is not None for child in node] if isinstance(node, list) else [True] * node
            self.logits[str(path)] = spread * torch.randn(len(exists))
            prior = torch.randn(len(exists)).double()
            self.priors[path] = prior.masked_fill(~torch.tensor(exists), float("-inf")).log_softmax(0)
        self.double()

    def attend(self, stage, thumbnails, source) -> NodeAttention:
        log_prob, log_prior = [], []
        for path in source.paths:
            prior = self.priors[path]
            logits = self.logits[str(path)].masked_fill(prior == float("-inf"), float("-inf"))
            log_prob.append(logits.log_softmax(0))
            log_prior.append(prior)
        padded = [pad_sequence(rows, True, float("-inf")) for rows in (log_prob, log_prior, log_prob)]
        return NodeAttention(*padded)

    def flat(self, slides: Sequence[list], slide: int) -> tuple[list[Path], Tensor, Tensor]:
        """All cells of a slide in flat order, their log P and log prior: as products along paths, one by one."""
        cells, log_prob, log_prior = [], [], []
        for cell in number_cells(slides):
            if cell[0] != slide:
                continue
            terms, priors = [], []
            for length in range(1, len(cell)):
                path, action = cell[:length], cell[length]
                prior = self.priors[path]
                logits = self.logits[str(path)].masked_fill(prior == float("-inf"), float("-inf"))
                terms.append(logits.log_softmax(0)[action])
                priors.append(prior[action])
            cells.append(cell)
            log_prob.append(sum(terms))
            log_prior.append(sum(priors))
        return cells, torch.stack(log_prob), torch.stack(log_prior)

    def features_of(self, slides: Sequence[list], cells: Sequence[Path]) -> Tensor:
        numbers = number_cells(slides)
        rows = torch.tensor([numbers[cell] for cell in cells])[:, None, None, None].double()
        return self.region_network.patch_encoder(rows)

    @property
    def classifier(self) -> BagClassifier:
        return self.region_network.classifier
