# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What the name of a control claims about its predictions, and whether their records bear it out.

A control that does something else under its name is worse than none. So what was attended to and read is taken from the
records themselves, not from the settings of the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from monai_jsma.predictions.records import PredictionRecord

__all__ = ["CLAIMS", "count_effective_cells", "find_contradictions"]

_TOLERANCE = 1e-3  # relative, of attention and weights: they are sums of float32
Check = Callable[[PredictionRecord], bool]


def find_contradictions(
    parts: Sequence[str], records: Sequence[PredictionRecord], *, on_tissue: bool = False
) -> list[str]:
    """What the records contradict of what a variant is called, one line each; nothing if all agrees.

    Args:
        parts: names of the controls that the variant is made of, such as ``("single", "all_patches")``; those without
            an entry in :data:`CLAIMS` claim nothing.
        records: its prediction records.
        on_tissue: only cells that hold tissue count: those without get no attention.
    """
    claims = {**CLAIMS, **CLAIMS_ON_TISSUE} if on_tissue else CLAIMS
    lines = []
    for part in parts:
        for claim, holds in claims.get(part, ()):
            wrong = [record for record in records if not holds(record)]
            if wrong:
                lines.append(
                    f"'{part}' means that {claim}, but in {len(wrong)} of {len(records)} regions this is not so "
                    f"(such as {wrong[0].file}: {_describe(wrong[0])})"
                )
    return lines


def count_effective_cells(record: PredictionRecord) -> float:
    """Over how many cells the attention is spread: exp of its entropy, from 1 to the number of cells."""
    attention = np.array(record.attention)
    positive = attention[attention > 0]
    entropy = -(positive * np.log(positive)).sum()
    return float(np.exp(entropy))


def _describe(record: PredictionRecord) -> str:
    lowest = min(record.attention)
    highest = max(record.attention)
    return (
        f"{record.patches_read} of {record.geometry.num_cells} patches read, attention from {lowest:.3g} to "
        f"{highest:.3g}, {len(record.magnifications)} magnifications"
    )


def _sees_one_magnification(record: PredictionRecord) -> bool:
    return len(record.magnifications) == 1


def _has_one_cell(record: PredictionRecord) -> bool:
    return record.geometry.num_cells == 1


def _attends_equally(record: PredictionRecord) -> bool:
    return _are_equal(record.attention)


def _attends_equally_at_each(record: PredictionRecord) -> bool:
    return _is_balanced(record)


def _attends_equally_on_tissue(record: PredictionRecord) -> bool:
    attended = [share for share in record.attention if share > 0]
    return _are_equal(attended)


def _attends_equally_at_each_on_tissue(record: PredictionRecord) -> bool:
    return _is_balanced(record, attended_only=True)


def _is_balanced(record: PredictionRecord, *, attended_only: bool = False) -> bool:
    """Whether magnifications have equal shares, and inside each all cells, or all that have any attention."""
    shares = list(record.shares.values())
    if not _are_equal(shares):
        return False
    for cells in record.geometry.slices.values():
        of_magnification = record.attention[cells]
        if attended_only:
            of_magnification = tuple(share for share in of_magnification if share > 0)
        if not _are_equal(of_magnification):
            return False
    return True


def _weighs_equally(record: PredictionRecord) -> bool:
    weights = [patch.weight for patch in record.patches]
    return _are_equal(weights)


def _reads_all(record: PredictionRecord) -> bool:
    # A cell whose attention is 0 in float32 has no weight, and is not listed.
    num_attended = np.count_nonzero(record.attention)
    return record.patches_read == num_attended


def _are_equal(values: Sequence[float]) -> bool:
    if not values:
        return False
    highest = max(values)
    return highest - min(values) <= _TOLERANCE * highest


_EQUAL_CELLS = ("no cell gets more attention than another", _attends_equally)
_EQUAL_WEIGHTS = ("all patches that are read count the same", _weighs_equally)
_ALL_READ = ("every patch is read", _reads_all)
_ONE_MAGNIFICATION = ("one magnification is seen", _sees_one_magnification)

CLAIMS: dict[str, tuple[tuple[str, Check], ...]] = {
    "single": (_ONE_MAGNIFICATION,),
    "single_magnification": (_ONE_MAGNIFICATION,),
    "random_patches": (_EQUAL_CELLS, _EQUAL_WEIGHTS),
    "balanced_random_patches": (
        ("each magnification gets the same attention, and inside it each cell", _attends_equally_at_each),
    ),
    "all_patches": (_ALL_READ,),
    "attention_mil": (_ALL_READ,),
    "mean_features": (_ALL_READ, _EQUAL_CELLS, _EQUAL_WEIGHTS),
    "thumbnail_only": (_ONE_MAGNIFICATION, _ALL_READ, _EQUAL_CELLS),
    "whole_image": (("the image is one patch", _has_one_cell), _ALL_READ),
}

_EQUAL_TISSUE = ("no cell with tissue gets more attention than another", _attends_equally_on_tissue)

CLAIMS_ON_TISSUE: dict[str, tuple[tuple[str, Check], ...]] = {
    "random_patches": (_EQUAL_TISSUE, _EQUAL_WEIGHTS),
    "balanced_random_patches": (
        (
            "each magnification gets the same attention, and inside it each cell with tissue",
            _attends_equally_at_each_on_tissue,
        ),
    ),
    "mean_features": (_ALL_READ, _EQUAL_TISSUE, _EQUAL_WEIGHTS),
    "thumbnail_only": (_ONE_MAGNIFICATION, _ALL_READ, _EQUAL_TISSUE),
}
