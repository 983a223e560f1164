# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The experiment on synthetic slides: its slides in memory are those of the files, its sums those of all patches."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType

import numpy as np
import pytest
import torch
from places import ROOT

from monai_jsma.data import PyramidBatch
from monai_jsma.datalists.synthetic import GEOMETRY
from monai_jsma.datalists.synthetic_slides import SlideSettings, make_slide, write_slide
from monai_jsma.geometry import PatchGeometry
from monai_jsma.networks import AllPatches, ConvBackbone, JSMANet, PatchEncoder, ZoomNet, ZoomStage
from monai_jsma.transforms import LoadPyramid

FOLDER = ROOT / "experiments"
SETTINGS = SlideSettings(side=16, tissue=0.04, informative=0.3, variants=2)


@pytest.fixture(scope="module")
def experiment() -> Iterator[ModuleType]:
    sys.path.insert(0, str(FOLDER))
    import zoom_slides

    yield zoom_slides
    sys.path.remove(str(FOLDER))
    del sys.modules["zoom_slides"]


def zoom_net() -> ZoomNet:
    torch.manual_seed(0)
    region_network = JSMANet(
        4,
        GEOMETRY.magnifications,
        weights=None,
        thumbnail_encoder=ConvBackbone((8,)),
        patch_encoder=PatchEncoder(ConvBackbone((8,)), feature_norm="l2"),
        thumbnail_size=(32, 32),
        patch_size=32,
    )
    return ZoomNet(region_network, [ZoomStage(ConvBackbone((8, 8, 8)), 256, (64, 64))]).eval()


def test_slides_in_memory_have_the_pixels_of_their_files(experiment, tmp_path):
    slide = make_slide(1, (5,), SETTINGS)
    write_slide(tmp_path / "a.tif", slide)
    on_disk = LoadPyramid(GEOMETRY.magnifications, 32)(tmp_path / "a.tif")
    in_memory = experiment.open_in_memory(slide, 0.3).pyramid
    for level, location, size in ((0, (250, 3), (600, 300)), (3, (7, 30), (40, 20))):
        stored = {0: 0, 3: 1}[level]  # the file has no levels between
        window = in_memory.reader.read(level, location, size)
        np.testing.assert_array_equal(window, on_disk.reader.read(stored, location, size))
    informative = int(np.flatnonzero(slide.kinds.ravel() == 3)[0])
    np.testing.assert_array_equal(
        in_memory.region(informative, 256).read(range(84)), on_disk.region(informative, 256).read(range(84))
    )


def test_all_patches_of_a_slide_are_summed_by_its_different_regions(experiment):
    slide = make_slide(2, (6,), SETTINGS)
    opened = experiment.open_in_memory(slide, 0.3)
    net = zoom_net()
    batch = PyramidBatch([opened.pyramid])
    with torch.inference_mode():
        regions = experiment.SeenRegions(net, opened)
        output = net(batch.thumbnails((64, 64)), batch, return_attention=True, sampler=AllPatches())
        logits, true_mass = regions.read_all(opened, output["attention"][0])
    torch.testing.assert_close(logits, output["logits"][0], rtol=1e-4, atol=1e-5)

    expected = 0.0
    variants = SETTINGS.variants
    for region, cell, mass in zip(*(output[name][0].tolist() for name in ("regions", "cells", "weights"))):
        number = int(slide.numbers.ravel()[region[0]])
        if slide.kinds.ravel()[region[0]] != 3:
            continue
        changed = (slide.pictures[number] != slide.pictures[number - variants]).any(axis=2)
        box = GEOMETRY.cell_box(cell)
        part = changed[int(box.row) : int(box.row + box.height), int(box.col) : int(box.col + box.width)]
        is_true = GEOMETRY.cell(cell).level == 1 and part.sum() == changed.sum()
        expected += mass * is_true
    assert true_mass == pytest.approx(expected, rel=1e-3)
    assert expected > 0


def test_attention_of_regions_is_that_of_the_cells_in_them(experiment):
    geometry = PatchGeometry((4096, 4096), GEOMETRY.mpp, GEOMETRY.magnifications, patch_size=32)
    attention = torch.rand(geometry.num_cells, dtype=torch.float64)
    expected = torch.zeros(16, 16, dtype=torch.float64)
    for cell in range(geometry.num_cells):
        box = geometry.cell_box(cell)
        expected[int(box.row) // 256, int(box.col) // 256] += attention[cell]
    torch.testing.assert_close(experiment.sum_over_regions(attention), expected.flatten())
