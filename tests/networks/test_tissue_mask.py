# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where tissue is known, cells without it are neither attended to nor read; the others are as if they were alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pyramid_cases import noise
from tiny_networks import mil_net, tiny_net
from tiny_zoom import slide

from monai_jsma.data import Pyramid, PyramidBatch
from monai_jsma.geometry import ORIENTATIONS, Box
from monai_jsma.losses import JSMALoss
from monai_jsma.networks import AllPatches, LeaveOneOut, log_prior
from monai_jsma.zoom_geometry import TissueMap

SIZE = (60, 45)


def on_tissue(pixels: np.ndarray, *, share: float = 0.02, seed: int = 0) -> Pyramid:
    """A slide on which some pixels are tissue."""
    height, width = pixels.shape[:2]
    mask = np.random.default_rng(seed).random((height, width)) < share
    return slide(pixels).with_tissue(TissueMap(mask, Box(0, 0, height, width)))


def find_slowly(pyramid: Pyramid) -> list[bool]:
    """Whether any pixel of tissue lies under the patch of each cell."""
    held = []
    for cell in range(pyramid.geometry.num_cells):
        box = pyramid.box(cell)
        rows = slice(int(box.row + 1e-6), int(np.ceil(box.row + box.height - 1e-6)))
        cols = slice(int(box.col + 1e-6), int(np.ceil(box.col + box.width - 1e-6)))
        held.append(bool(pyramid.tissue.mask[rows, cols].any()))
    return held


@pytest.mark.parametrize("orientation", ORIENTATIONS)
@pytest.mark.parametrize("size", [SIZE, (33, 70), (6, 7)])
def test_a_cell_holds_tissue_where_a_pixel_under_its_patch_does(orientation, size):
    pyramid = on_tissue(noise(*size), share=0.01, seed=3).oriented(orientation)
    assert pyramid.tissue_cells().tolist() == find_slowly(pyramid)


def test_a_part_of_a_slide_has_the_tissue_that_lies_in_it():
    whole = on_tissue(noise(*SIZE), share=0.01)
    part = whole.cropped((20, 10), (30, 25))
    assert part.tissue_cells().tolist() == find_slowly(part)
    assert slide(noise(*SIZE)).tissue_cells().all()


def batch() -> PyramidBatch:
    """A slide with little tissue, one with none, and one of which nothing is known; of unequal sizes."""
    bare = slide(noise(20, 12)).with_tissue(TissueMap(np.zeros((20, 12), bool), Box(0, 0, 20, 12)))
    return PyramidBatch([on_tissue(noise(*SIZE), share=0.005), bare, slide(noise(33, 70))])


def look(net, slides: PyramidBatch, **options):
    return net(slides.thumbnails((16, 16)), slides, return_attention=True, **options)


@torch.no_grad()
@pytest.mark.parametrize("level_prior", [None, "balanced"])
@pytest.mark.parametrize("uniform", [False, True])
def test_attention_is_what_it_is_among_the_cells_with_tissue(level_prior, uniform):
    options = {"thumbnail_encoder": None, "sampler": LeaveOneOut(2)} if uniform else {}
    net = tiny_net(level_prior=level_prior, **options).eval()
    slides = batch()
    held = slides[0].tissue_cells()
    assert 0 < held.sum() < len(held)
    output = look(net, slides)
    free = PyramidBatch([pyramid.with_tissue(None) for pyramid in slides])
    without = look(net, free)["attention"]
    torch.testing.assert_close(output["attention"][1:], without[1:])

    expected = np.zeros(len(held))
    weight = without[0, : len(held)].double().numpy()
    for cells in slides[0].geometry.slices.values():
        of_level = weight[cells] * held[cells]
        if level_prior == "balanced":
            of_level = of_level * len(held[cells]) / held[cells].sum()
        expected[cells] = of_level
    expected /= expected.sum()
    np.testing.assert_allclose(output["attention"][0, : len(held)], expected, rtol=1e-4, atol=1e-7)
    if uniform and level_prior == "balanced":
        for cells in slides[0].geometry.slices.values():
            share = output["attention"][0, cells].sum().item()
            assert share == pytest.approx(0.5, abs=1e-5)


@torch.no_grad()
def test_the_neutral_distribution_gives_magnifications_equal_shares_of_the_tissue():
    slides = batch()
    prior = look(tiny_net().eval(), slides)["log_prior"].exp()
    held = slides[0].tissue_cells()
    for cells in slides[0].geometry.slices.values():
        expected = held[cells] / held[cells].sum() / 2
        np.testing.assert_allclose(prior[0, cells], expected, rtol=1e-5)
    torch.testing.assert_close(prior[1:], log_prior(slides.grids).exp()[1:])


class CountingBatch(PyramidBatch):
    """Remembers which cells were read."""

    def read(self, images, cells):
        self.pairs = [*getattr(self, "pairs", []), *zip(images.tolist(), cells.tolist())]
        return super().read(images, cells)


@pytest.mark.parametrize("kind", ["random", "attention_mil", "flat"])
def test_nothing_without_tissue_is_read(kind):
    slides = CountingBatch(batch())
    if kind == "attention_mil":
        net, num_read = mil_net(), None
    else:
        encoder = {"thumbnail_encoder": None} if kind == "random" else {}
        net, num_read = tiny_net(sampler=LeaveOneOut(40), level_prior="balanced", **encoder), 40
    output = look(net, slides)
    held = slides[0].tissue_cells()
    read = {cell for image, cell in slides.pairs if image == 0}
    assert held[list(read)].all()
    if num_read is None:
        assert read == set(np.flatnonzero(held).tolist())
        assert (output["weights"][0] > 0).sum() == held.sum()
    else:
        assert len(read) <= num_read
        assert held[output["cells"][0]].all()
    JSMALoss(0.1, "kl")(output, torch.tensor([1, 0, 2])).backward()
    for name, parameter in net.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name


@torch.no_grad()
def test_attention_mil_over_tissue_is_the_sum_over_its_patches():
    net = mil_net().eval()
    slides = batch()
    output = look(net, slides)
    cells = torch.from_numpy(np.flatnonzero(slides[0].tissue_cells()))
    features = net.patch_encoder(slides.read(torch.zeros_like(cells), cells))
    exists = torch.ones(1, len(cells), dtype=torch.bool)
    attention = net.attention(features[None] * net.patch_encoder.scale, exists).exp()
    bag = (attention[0, :, None] * features).sum(dim=0)
    torch.testing.assert_close(output["logits"][0], net.classifier(bag), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_all_patches_are_all_that_hold_tissue():
    slides = batch()
    output = look(tiny_net(sampler=AllPatches()).eval(), slides)
    held = slides[0].tissue_cells()
    assert ((output["weights"][0, : len(held)] > 0).numpy() == held).all()
