# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Networks and slides for zooming that are small enough for hundreds of passes a second."""

from __future__ import annotations

import numpy as np
import torch
from pyramid_cases import noise
from tiny_networks import MAGNIFICATIONS, PATCH, tiny_net
from torch import nn

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.networks import ConvBackbone, LeaveOneOut, ZoomNet, ZoomStage
from monai_jsma.slides.base import ArrayReader

REGION = 24
SLIDES = ((120, 100), (48, 75), (20, 12))  # the last is smaller than a region


def stage(region=REGION, **options) -> ZoomStage:
    made = ZoomStage(ConvBackbone((8,)), region, (16, 16), **options)
    nn.init.normal_(made.attention.logits[0].weight, std=3.0)  # attention that tells regions apart
    return made


def zoom_net(*stages, sampler=None, **options) -> ZoomNet:
    net = tiny_net(**options)
    torch.manual_seed(1)
    return ZoomNet(net, stages or [stage()], sampler=LeaveOneOut(4) if sampler is None else sampler)


def slide(pixels: np.ndarray, **options) -> Pyramid:
    return Pyramid(ArrayReader(pixels), mpp=1.0, magnifications=MAGNIFICATIONS, patch_size=PATCH, **options)


def slides_of(*sizes) -> PyramidBatch:
    return PyramidBatch(slide(noise(*size, seed=i)) for i, size in enumerate(sizes))


def look(net, slides, **options):
    return net(slides.thumbnails(net.thumbnail_size), slides, return_attention=True, **options)
