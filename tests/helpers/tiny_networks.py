# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks and pictures small enough for hundreds of passes a second."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.networks import AttentionMIL, ConvBackbone, JSMANet, PatchEncoder, Pathwise

MAGNIFICATIONS = (2.0, 1.0)
PATCH = 8
SIZES = ((24, 20), (40, 33), (6, 7))  # the last is smaller than a patch
CELLS = (13, 31, 2)  # 4 + 9, 6 + 25 and 1 + 1


ENCODER_OPTIONS = ("feature_norm", "frozen", "feature_cache", "chunk_size")


def make_encoder(backbone, options: dict) -> PatchEncoder:
    """A patch encoder of ``backbone`` with those of the ``options`` that are its own, which are taken out of them."""
    own = {name: options.pop(name) for name in ENCODER_OPTIONS if name in options}
    return PatchEncoder(backbone, **own)


def tiny_net(**options) -> JSMANet:
    """Three classes, two magnifications, 8-pixel patches, seeded, no dropout; options of f go to its encoder."""
    torch.manual_seed(0)
    settings = {
        "num_classes": 3,
        "magnifications": MAGNIFICATIONS,
        "weights": None,
        "thumbnail_size": (16, 16),
        "patch_size": PATCH,
        "sampler": Pathwise(3),
        "thumbnail_encoder": ConvBackbone((8,)),
        "patch_encoder": ConvBackbone((8, 16)),
        "attention_dropout": 0.0,
        "dropout": 0.0,
    }
    settings |= options
    if not set(ENCODER_OPTIONS).isdisjoint(settings):
        settings["patch_encoder"] = make_encoder(settings["patch_encoder"], settings)
    net = JSMANet(**settings)
    for conv in getattr(net.attention, "logits", ()):  # attention that tells cells apart
        nn.init.normal_(conv.weight, std=2.0)
    return net


def mil_net(**options) -> AttentionMIL:
    """Attention MIL for the same pictures, seeded, no dropout."""
    torch.manual_seed(0)
    settings = {"patch_size": PATCH, "patch_encoder": ConvBackbone((8, 16)), "hidden": 5, "dropout": 0.0}
    settings |= options
    settings["patch_encoder"] = make_encoder(settings["patch_encoder"], settings)
    net = AttentionMIL(3, MAGNIFICATIONS, weights=None, **settings)
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


class TableEncoder(PatchEncoder):
    """Features are rows of a table; a patch holds the number of its row."""

    def __init__(self, features: Tensor) -> None:
        backbone = ConvBackbone((8,))
        backbone.num_features = features.shape[1]
        super().__init__(backbone)
        self.features = nn.Parameter(features)

    def pool(self, patches):
        return self.features[patches[:, 0, 0, 0].long()]


class TableNet(JSMANet):
    """JSMANet whose attention and patch features are tables of numbers: float64, so that it can be enumerated."""

    def __init__(self, logits: Tensor, features: Tensor, num_classes: int, *, sharpness: float, sampler) -> None:
        fixed = {"weights": None, "thumbnail_encoder": ConvBackbone((8,)), "attention_dropout": 0.0, "dropout": 0.0}
        super().__init__(num_classes, (1.0,), sampler=sampler, patch_encoder=TableEncoder(features), **fixed)
        self.logits = nn.Parameter(logits)
        nn.init.normal_(self.classifier.weight, std=sharpness)
        self.double()

    def attend(self, thumbnail, grids, *, views=None):
        return self.logits.log_softmax(0).expand(len(thumbnail), -1)
