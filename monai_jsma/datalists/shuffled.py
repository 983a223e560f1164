# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""A control: labels that are dealt anew among the pictures, so that nothing tells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from monai_jsma.datalists.schema import SIDES, sides_of

__all__ = ["shuffle_labels"]


def shuffle_labels(content: Mapping[str, Any], seed: int = 0) -> dict[str, Any]:
    """A datalist whose labels are dealt anew among the items of each side.

    Each side keeps its pictures and as many items of each class. A network that learns from it is right about the true
    labels as often as chance; one that is better has seen them.

    Args:
        content: a datalist.
        seed: of the deal.
    """
    sides, rng = sides_of(content), np.random.default_rng(seed)
    dealt = {}
    for name in [*(side for side in SIDES if side in sides), *sorted(sides.keys() - set(SIDES))]:
        order = rng.permutation(len(sides[name]))
        labels = [sides[name][i].get("label") for i in order]
        dealt[name] = [{**item, "label": label} for item, label in zip(sides[name], labels, strict=True)]
    return {**content, **dealt}
