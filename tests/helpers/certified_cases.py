# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Random models of which attention, features and classifier are tables, and a slow reader that stops as they say."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.networks import BagClassifier, ConvBackbone, JSMANet, PatchEncoder


class Signed(nn.Identity):
    """A backbone of which nothing is known."""

    num_features = 8


class Tables:
    """Pictures of one row of cells; a patch holds the numbers of its picture and cell. It counts what is read."""

    def __init__(self, features: list[Tensor]) -> None:
        self.features, self.thumbnails = features, torch.zeros(len(features), 3, 1, 1)
        self.times: Counter[tuple[int, int]] = Counter()

    @property
    def grids(self) -> list:
        return [((1, len(features)),) for features in self.features]

    @property
    def read_cells(self) -> list[set[int]]:
        return [{cell for picture, cell in self.times if picture == i} for i in range(len(self.features))]

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        self.times.update(zip(pictures.tolist(), cells.tolist(), strict=True))
        return torch.stack((pictures, cells), dim=1)[:, :, None, None].float()


class TablesEncoder(PatchEncoder):
    """Reads its features, of length 1, from tables."""

    source: Tables

    def pool(self, patches):
        places = patches[:, :, 0, 0].long().tolist()
        return nn.functional.normalize(torch.stack([self.source.features[i][c] for i, c in places]), dim=1)


class TablesNet(JSMANet):
    """Reads its attention and its features from tables."""

    log_attention: Tensor

    def attend(self, thumbnail, grids, *, views=None):
        return self.log_attention


def table_net(
    seed: int,
    cells: list[int],
    classes: int,
    size: int,
    attention: str,
    kinds: int = 1000,
    weight: float = 1.0,
    bias: float = 0.0,
    non_negative: bool = False,
) -> tuple[TablesNet, Tables]:
    """A random network and its pictures, of so many cells each; ``size`` is the length of the features."""
    torch.manual_seed(seed)
    backbone = ConvBackbone((8,)) if non_negative else Signed()
    backbone.num_features = size
    h, f = ConvBackbone((8,)), TablesEncoder(backbone, feature_norm="l2")
    net = TablesNet(classes, (1.0,), weights=None, thumbnail_encoder=h, patch_encoder=f)
    net.classifier = BagClassifier(f, classes)
    net.eval()
    nn.init.normal_(net.classifier.weight, std=weight)
    nn.init.normal_(net.classifier.bias, std=bias)
    logits = [_attention(attention, n) for n in cells]
    net.log_attention = pad_sequence([x.log_softmax(0) for x in logits], True, float("-inf"))
    features = [torch.randn(min(n, kinds), size)[torch.randint(min(n, kinds), (n,))] for n in cells]
    source = Tables([row.abs() if non_negative else row for row in features])
    f.source = source
    return net, source


def _attention(kind: str, n: int) -> Tensor:
    logits = torch.randn(n)
    if kind == "one-hot":
        return 1e4 * torch.eye(n)[torch.randint(n, ())]
    return {"flat": 0 * logits, "ties": (2 * logits).round(), "mild": logits, "sharp": 5 * logits}[kind]


def worst_features(weight: Tensor, a: int, b: int, non_negative: bool) -> Tensor:
    """The features of length 1 that speak most for class b against a."""
    direction = weight[b] - weight[a]
    return nn.functional.normalize(direction.clamp_min(0) if non_negative else direction, dim=0)


def read_by_hand(net: TablesNet, source: Tables, picture: int, chunk: int, cap: int | None) -> tuple[int, bool]:
    """How many patches must be read, and whether they make it certain: patch by patch, pair by pair, in float64."""
    prob = net.log_attention[picture].exp().double()[: len(source.features[picture])]
    features = nn.functional.normalize(source.features[picture].double(), dim=1)
    weight, bias = net.classifier.weight.double() * features.shape[1] ** 0.5, net.classifier.bias.double()
    order = sorted(range(len(prob)), key=lambda cell: -prob[cell])
    classes, last = range(len(bias)), min(cap or len(prob), len(prob))
    for stop in sorted({*range(chunk, last, chunk), last}):
        left = sum(prob[cell] for cell in order[stop:])
        logits = weight @ sum(prob[cell] * features[cell] for cell in order[:stop]) + bias
        size = weight.norm(dim=1) + bias.abs()

        def above(a, b, left=left, logits=logits, size=size):
            apart = weight[b] - weight[a]
            apart = apart.clamp_min(0) if net.patch_encoder.backbone.non_negative else apart
            return logits[a] - logits[b] - left * apart.norm() > 2**-11.5 * (size[a] + size[b])

        sure = any(all(above(a, b) for b in classes if b != a) for a in classes)
        if sure or left == 0:
            return int((prob[order[:stop]] > 0).sum()), sure
    return last, sure
