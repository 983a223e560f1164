# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How the attention is spread over the magnifications, for all regions and by class (paper, Tables 3 and 4).

The share of a magnification is its attention summed over its cells; its prior is its share of all cells, which equal
attention would give. Both are means over regions. Enrichment is share over prior.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from monai_jsma.predictions.records import PredictionRecord

__all__ = ["AttentionShares"]


class AttentionShares:
    """Shares of the attention by magnification, averaged over any rows of some records.

    Args:
        records: prediction records, at least one.
        classes: index of the true or predicted class of each record ``(n,)``.
    """

    def __init__(self, records: Sequence[PredictionRecord], classes: np.ndarray) -> None:
        mpp_of_name: dict[str, float] = {}
        for record in records:
            mpp_of_name.update(zip(record.geometry.names, record.magnifications, strict=True))
        self.names = sorted(mpp_of_name, key=lambda name: -mpp_of_name[name])

        self._shares = self._tabulate(record.shares for record in records)
        self._priors = self._tabulate(record.prior_shares for record in records)
        self._is_class = classes[:, None] == np.arange(len(records[0].classes))

    def _tabulate(self, shares: Iterable[Mapping[str, float]]) -> np.ndarray:
        """Shares by name as rows ``(n, magnifications)``; 0 for a magnification that a record lacks."""
        return np.array([[share.get(name, 0.0) for name in self.names] for share in shares])

    def average(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Mean ``share``, ``prior`` and ``enrichment`` of some rows, ``(magnifications,)``.

        ``class_share``, ``class_prior`` and ``class_enrichment`` are the same by class, ``(classes, magnifications)``;
        NaN for a class without rows.
        """
        shares = self._shares[rows]
        priors = self._priors[rows]
        is_class = self._is_class[rows]
        counts = is_class.sum(axis=0)[:, None]

        means = {"share": shares.mean(axis=0), "prior": priors.mean(axis=0)}
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            means["enrichment"] = means["share"] / means["prior"]
            means["class_share"] = is_class.T @ shares / counts
            means["class_prior"] = is_class.T @ priors / counts
            means["class_enrichment"] = means["class_share"] / means["class_prior"]
        return means
