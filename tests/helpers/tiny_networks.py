# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks and pictures small enough for hundreds of passes a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.networks import AttentionMIL, ConvBackbone, JSMANet

MAGNIFICATIONS = (2.0, 1.0)
PATCH = 8
SIZES = ((24, 20), (40, 33), (6, 7))  # the last is smaller than a patch
CELLS = (13, 31, 2)  # 4 + 9, 6 + 25 and 1 + 1


def tiny_net(**options) -> JSMANet:
    """Three classes, two magnifications, 8-pixel patches, seeded, no dropout."""
    torch.manual_seed(0)
    settings = {
        "num_classes": 3,
        "magnifications": MAGNIFICATIONS,
        "weights": None,
        "thumbnail_size": (16, 16),
        "patch_size": PATCH,
        "num_patches": 3,
        "thumbnail_backbone": ConvBackbone((8,)),
        "patch_backbone": ConvBackbone((8, 16)),
        "attention_dropout": 0.0,
        "dropout": 0.0,
    }
    net = JSMANet(**{**settings, **options})
    for conv in getattr(net.attention, "logits", ()):  # attention that tells cells apart
        nn.init.normal_(conv.weight, std=2.0)
    return net


def mil_net(**options) -> AttentionMIL:
    """Attention MIL for the same pictures, seeded, no dropout."""
    torch.manual_seed(0)
    settings = {"patch_size": PATCH, "patch_backbone": ConvBackbone((8, 16)), "hidden": 5, "dropout": 0.0}
    net = AttentionMIL(3, MAGNIFICATIONS, None, **{**settings, **options})
    nn.init.normal_(net.attention.score.weight, std=20.0)  # attention that tells patches apart
    return net


def pictures(*sizes: tuple[int, int], seed: int = 0) -> list[Tensor]:
    """Random uint8 pictures ``(3, height, width)``."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for size in sizes]


class Pictures:
    """Pictures of unequal size, read as a batch."""

    def __init__(self, images: list[Tensor]) -> None:
        self.singles = [TensorPyramidBatch(image[None], MAGNIFICATIONS, PATCH) for image in images]
        self.patches_read = 0

    @property
    def grids(self) -> list:
        return [single.grids[0] for single in self.singles]

    def thumbnails(self) -> Tensor:
        return torch.cat([single.thumbnail((16, 16)) for single in self.singles])

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        self.patches_read += len(cells)
        zero = torch.zeros(1, dtype=torch.long)
        return torch.cat([self.singles[p].read(zero, c[None]) for p, c in zip(pictures.tolist(), cells)])


def ragged_batch() -> tuple[Tensor, Pictures]:
    """Thumbnails and pictures of ``SIZES``."""
    images = Pictures(pictures(*SIZES))
    return images.thumbnails(), images


class CellNumbers:
    """Pictures of one row of cells whose patches hold nothing but the number of their cell."""

    def __init__(self, pictures: int, cells: int) -> None:
        self.grids = [((1, cells),)] * pictures

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        return cells[:, None, None, None].double()


class TableNet(JSMANet):
    """JSMANet whose attention and patch features are tables of numbers: float64, so that it can be enumerated."""

    def __init__(self, logits: Tensor, features: Tensor, num_classes: int, sharpness: float, **options) -> None:
        backbones = {"thumbnail_backbone": ConvBackbone((8,)), "patch_backbone": ConvBackbone((8,))}
        super().__init__(num_classes, (1.0,), None, attention_dropout=0.0, dropout=0.0, **backbones, **options)
        self.logits, self.features = nn.Parameter(logits), nn.Parameter(features)
        self.classifier = nn.Linear(features.shape[1], num_classes)
        nn.init.normal_(self.classifier.weight, std=sharpness)
        self.double()

    def attend(self, thumbnail, grids):
        return self.logits.log_softmax(0).expand(len(thumbnail), -1)

    def encode(self, patches):
        return self.features[patches[:, 0, 0, 0].long()]
