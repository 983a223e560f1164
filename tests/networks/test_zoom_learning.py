# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""From the labels of slides the zoom learns which regions to look at, and the regions where to read.

A slide has 8 x 8 regions of 16 pixels, half of them tissue. Some regions have a cell with a tint, which thumbnails
show. Half of these have stripes on it too, whose direction is the class: they are seen at one magnification, and in no
thumbnail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.geometry import Box
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import ConvBackbone, Draws, JSMANet, LeaveOneOut, PatchEncoder, ZoomNet, ZoomStage
from monai_jsma.slides.base import ArrayReader
from monai_jsma.zoom_geometry import TissueMap

SIDE = 8  # regions along a slide
REGION = 16
CELL = 8
BATCH = 16
TISSUE, TINTED = 32, 12  # regions of a slide; half of the tinted ones have stripes
GLASS, PLAIN, TINT = (240, 240, 240), (200, 150, 180), (150, 120, 200)
STRIPES = np.array([[[30], [-30]], [[30], [-30]]])  # their mean is 0


def make_slide(label: int, seed: int) -> tuple[Pyramid, np.ndarray]:
    """A slide, and which of its regions are tinted ``(regions,)``."""
    random = np.random.default_rng(seed)
    pixels = np.full((SIDE * REGION, SIDE * REGION, 3), GLASS)
    tissue = random.permutation(SIDE**2)[:TISSUE]
    is_tissue = np.zeros((SIDE, SIDE), bool)
    for number, region in enumerate(tissue):
        row, col = divmod(int(region), SIDE)
        is_tissue[row, col] = True
        part = pixels[row * REGION : row * REGION + REGION, col * REGION : col * REGION + REGION]
        part[:] = PLAIN
        down, right = random.integers(REGION // CELL, size=2) * CELL
        cell = part[down : down + CELL, right : right + CELL]
        if number < TINTED:
            cell[:] = TINT
        if number < TINTED // 2:
            stripes = STRIPES if label == 0 else STRIPES.swapaxes(0, 1)
            cell += np.tile(stripes, (CELL // 2, CELL // 2, 1))
    noise = random.integers(-4, 5, pixels.shape)
    reader = ArrayReader((pixels + noise).astype(np.uint8))
    pyramid = Pyramid(reader, mpp=1.0, magnifications=(2.0, 1.0), patch_size=CELL)
    is_tinted = np.zeros(SIDE**2, bool)
    is_tinted[tissue[:TINTED]] = True
    return pyramid.with_tissue(TissueMap(is_tissue, Box(0, 0, *pixels.shape[:2]))), is_tinted


def make_net() -> ZoomNet:
    """Encoders of random weights, which stay as they are: what is learned lies on top of them."""
    torch.manual_seed(0)
    region_network = JSMANet(
        2,
        (2.0, 1.0),
        weights=None,
        thumbnail_encoder=ConvBackbone((16,)),
        patch_encoder=PatchEncoder(ConvBackbone((32,)), feature_norm="standardized", frozen=True),
        thumbnail_size=(CELL, CELL),
        thumbnail_norm="standardized",
        patch_size=CELL,
        normalization="softmax",
        level_prior="balanced",
        attention_dropout=0.0,
        dropout=0.0,
        freeze_thumbnail_encoder=True,
    )
    root = ZoomStage(ConvBackbone((16,)), REGION, (4 * SIDE, 4 * SIDE), thumbnail_norm="standardized", frozen=True)
    return ZoomNet(region_network, [root], sampler=LeaveOneOut(8))


def train(net: ZoomNet, slides: Sequence[Pyramid], steps: int) -> None:
    """Learn from the labels of slides, of which those of the two classes take turns."""
    optimizer = torch.optim.Adam(net.parameters(), 0.05)
    criterion = JSMALoss(0.001, "kl")
    labels = torch.arange(BATCH) % 2
    for _ in range(steps):
        first = 2 * torch.randint(len(slides) // 2, (BATCH,))
        batch = PyramidBatch(slides[int(number)] for number in first + labels)
        output = net(batch.thumbnails(net.thumbnail_size), batch, return_attention=True)
        optimizer.zero_grad()
        criterion(output, labels).backward()
        optimizer.step()


def test_where_to_look_is_learned_from_the_labels_of_slides():
    net = make_net()
    train(net, [make_slide(number % 2, seed=number)[0] for number in range(60)], steps=100)

    held_out = [make_slide(number % 2, seed=1000 + number) for number in range(40)]
    batch = PyramidBatch(pyramid for pyramid, _ in held_out)
    with torch.inference_mode():
        sampler = Draws(LeaveOneOut(4), 4)
        output = net.eval()(batch.thumbnails(net.thumbnail_size), batch, return_attention=True, sampler=sampler)
    labels = torch.arange(len(held_out)) % 2
    right = output["draw_probabilities"].argmax(dim=2) == labels[:, None]
    is_tinted = torch.from_numpy(np.stack([tinted for _, tinted in held_out]))
    on_tinted = (output["attention"] * is_tinted).sum(dim=1)
    assert on_tinted.mean() >= 0.8  # by chance 12 of 32
    assert right.float().mean() >= 0.9  # all four paths lead to distractors in 6 of 100 draws
