# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Records that keep what the name of a control claims, and records that break each of its claims."""

from __future__ import annotations

import math

import pytest

from monai_jsma.predictions.records import PatchRecord, PredictionRecord
from monai_jsma.report.claims import CLAIMS, CLAIMS_ON_TISSUE, count_effective_cells, find_contradictions

EQUAL = (1 / 5,) * 5
BALANCED = (1 / 2, *(1 / 8,) * 4)
UNEVEN = (0.5, 0.2, 0.1, 0.1, 0.1)


def record(attention, weights, *, magnifications=(2.0, 1.0)) -> PredictionRecord:
    """A record of 64 pixels at 1 um/px with patches of 32: one cell at 50X and four at 100X."""
    geometry_box = (0, 0, 32, 32)
    patches = [
        PatchRecord(magnification="100X", mpp=1.0, row=0, col=0, box=geometry_box, attention=0.1, weight=weight)
        for weight in weights
    ]
    return PredictionRecord(
        file="a.png",
        location=(0, 0),
        size=(64, 64),
        mpp=1.0,
        mpp_source="given",
        classes=("a", "b"),
        probabilities=(0.5, 0.5),
        label=0,
        group="a",
        magnifications=magnifications,
        patch_size=32,
        attention=tuple(attention),
        patches=tuple(patches),
    )


ALL = [0.2] * 5
ONE_CELL = record((1.0,), [1.0], magnifications=(2.0,))
KEEPS = {
    "single": ONE_CELL,
    "single_magnification": ONE_CELL,
    "random_patches": record(EQUAL, [0.5, 0.5]),
    "balanced_random_patches": record(BALANCED, [0.5, 0.5]),
    "all_patches": record(UNEVEN, UNEVEN),
    "attention_mil": record((0.5, 0.5, 0.0, 0.0, 0.0), [0.5, 0.5]),  # a weight of 0 is not listed
    "mean_features": record(EQUAL, ALL),
    "thumbnail_only": record((1 / 4,) * 4, [1 / 4] * 4, magnifications=(1.0,)),
    "whole_image": ONE_CELL,
}
BREAKS = {
    "single": [record(EQUAL, ALL)],
    "single_magnification": [record(EQUAL, ALL)],
    "random_patches": [record(UNEVEN, [0.5, 0.5]), record(EQUAL, [0.7, 0.3])],
    "balanced_random_patches": [
        record(EQUAL, [0.5, 0.5]),
        record((0.5, 0.2, 0.1, 0.1, 0.1), [0.5, 0.5]),
    ],
    "all_patches": [record(UNEVEN, [0.7, 0.3])],
    "attention_mil": [record(UNEVEN, [0.7, 0.3])],
    "mean_features": [record(EQUAL, [0.5, 0.5]), record(UNEVEN, UNEVEN), record(EQUAL, UNEVEN)],
    "thumbnail_only": [
        record(EQUAL, ALL),
        record((1 / 4,) * 4, [1.0], magnifications=(1.0,)),
        record((0.4, 0.2, 0.2, 0.2), [1 / 4] * 4, magnifications=(1.0,)),
    ],
    "whole_image": [
        record((1 / 4,) * 4, [1 / 4] * 4, magnifications=(1.0,)),
        record((1.0,), [], magnifications=(2.0,)),
    ],
}


def test_every_claim_is_tried():
    assert set(KEEPS) == set(BREAKS) == set(CLAIMS)
    for name, claims in CLAIMS.items():
        broken = {
            line.split(", but in")[0] for record in BREAKS[name] for line in find_contradictions([name], [record])
        }
        assert len(broken) == len(claims)


@pytest.mark.parametrize("name", CLAIMS)
def test_what_keeps_the_claims_is_not_reported(name):
    assert find_contradictions([name], [KEEPS[name]]) == []


@pytest.mark.parametrize("name", CLAIMS)
def test_what_breaks_a_claim_is_named_with_its_file(name):
    for broken in BREAKS[name]:
        lines = find_contradictions(["multi", name], [KEEPS[name], broken, KEEPS[name]])
        assert lines
        assert all(f"'{name}' means that " in line and "but in 1 of 3 regions" in line for line in lines)
        assert all("a.png" in line for line in lines)


ON_TISSUE = {
    "random_patches": record((1 / 3, 0.0, 1 / 3, 1 / 3, 0.0), [0.5, 0.5]),
    "balanced_random_patches": record((0.5, 0.25, 0.0, 0.25, 0.0), [0.5, 0.5]),
    "mean_features": record((1 / 3, 0.0, 1 / 3, 1 / 3, 0.0), [1 / 3] * 3),
    "thumbnail_only": record((1 / 2, 0.0, 1 / 2, 0.0), [1 / 2] * 2, magnifications=(1.0,)),
}


def test_cells_without_tissue_are_no_contradiction_where_only_tissue_counts():
    assert set(ON_TISSUE) == set(CLAIMS_ON_TISSUE)
    for name, kept in ON_TISSUE.items():
        assert find_contradictions([name], [kept], on_tissue=True) == []
        assert find_contradictions([name], [kept])
        for broken in BREAKS[name]:
            assert find_contradictions([name], [broken], on_tissue=True)
    unequal = record((0.5, 0.3, 0.0, 0.2, 0.0), [0.5, 0.5])
    assert find_contradictions(["balanced_random_patches"], [unequal], on_tissue=True)


def test_a_name_without_claims_is_free():
    assert find_contradictions(["multi", "paper", "mine"], [record(UNEVEN, [1.0])]) == []


def test_the_attention_is_over_as_many_cells_as_its_entropy_says():
    assert count_effective_cells(record(EQUAL, ALL)) == pytest.approx(5)
    assert count_effective_cells(ONE_CELL) == pytest.approx(1)
    assert count_effective_cells(record((0.5, 0.5, 0, 0, 0), ALL)) == pytest.approx(2)
    entropy = -sum(p * math.log(p) for p in UNEVEN)
    assert count_effective_cells(record(UNEVEN, ALL)) == pytest.approx(math.exp(entropy))
