# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The overlay ``balanced_random_patches``, by enumeration: it draws as attention that is still its prior would."""

from __future__ import annotations

import json

import pytest
import torch
from enumeration import every_draw
from places import ROOT

from monai_jsma.networks import LeaveOneOut, Pathwise, UniformAttention, log_prior

GRIDS = [[(1, 1), (2, 2)]]  # 1 cell at the coarse magnification, 4 at the fine one
OVERLAY = json.loads((ROOT / "bundles" / "variants" / "balanced_random_patches.json").read_text())


def log_attention() -> torch.Tensor:
    """What :func:`test_the_overlay_has_no_attention_but_the_prior` finds, to the last digit of float64."""
    return torch.tensor([1 / 2] + [1 / 8] * 4, dtype=torch.float64).log()


def count_per_magnification(draw, chances) -> list[float]:
    """Expected number of patches of each magnification; cells 1 to 4 are the fine ones."""
    coarse = ((draw.cells == 0) & draw.drawn).sum(1).double()
    fine = ((draw.cells > 0) & draw.drawn).sum(1).double()
    return [float(chances @ coarse), float(chances @ fine)]


def test_the_overlay_has_no_attention_but_the_prior():
    assert OVERLAY["thumbnail_backbone"] is None
    attention = UniformAttention(OVERLAY["level_prior"])(torch.zeros(1), GRIDS)[0]
    torch.testing.assert_close(attention, log_prior(GRIDS)[0])
    torch.testing.assert_close(attention.double(), log_attention(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3])
def test_in_training_each_magnification_has_its_share_of_the_draws(k):
    assert OVERLAY["sampler"] == {"_target_": "monai_jsma.networks.LeaveOneOut", "k": "@num_patches"}
    assert not LeaveOneOut.in_order  # independent draws, as enumerated here
    draw, chances = every_draw(log_attention(), k, "with_replacement")
    assert count_per_magnification(draw, chances) == pytest.approx([k / 2, k / 2], abs=1e-12)


def test_in_the_test_different_cells_are_read_each_as_often_as_its_prior_says():
    sampler = OVERLAY["inference_sampler"]
    assert (sampler["_target_"], sampler["k"]) == ("monai_jsma.networks.Pathwise", "@inference_patches")
    assert Pathwise(2, estimator=sampler["estimator"]).for_evaluation()
    for k in (1, 2):
        draw, chances = every_draw(log_attention(), k, sampler["estimator"])
        assert all(len(set(cells)) == k for cells in draw.cells.tolist())
        assert count_per_magnification(draw, chances) == pytest.approx([k / 2, k / 2], abs=1e-12)
        assert draw.weights.flatten().tolist() == pytest.approx([1 / k] * draw.weights.numel(), abs=1e-12)


def test_a_magnification_with_too_few_cells_is_read_whole_and_keeps_its_weight():
    """Three patches, of which 1.5 should be coarse: there is one such cell, which counts half."""
    draw, chances = every_draw(log_attention(), 3, OVERLAY["inference_sampler"]["estimator"])
    assert count_per_magnification(draw, chances) == pytest.approx([1, 2], abs=1e-12)
    weight = (draw.weights * (draw.cells == 0)).sum(1)
    assert weight.tolist() == pytest.approx([1 / 2] * len(weight), abs=1e-12)
    rows = torch.arange(len(draw.cells))[:, None].expand_as(draw.cells)
    mean = torch.zeros(len(draw.cells), 5, dtype=torch.float64).index_put((rows, draw.cells), draw.weights.double())
    torch.testing.assert_close(chances @ mean, log_attention().exp(), rtol=0, atol=1e-12)
