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
from monai_jsma.tasks import Label, make_class_matrix

__all__ = ["AttentionShares"]


class AttentionShares:
    """Shares of the attention by magnification, averaged over any rows of some records.

    Args:
        records: prediction records, at least one.
        labels: true or predicted label of each record; None counts for no class, of multi-label each of its classes.
    """

    def __init__(self, records: Sequence[PredictionRecord], labels: Sequence[Label | None]) -> None:
        self.names = _list_magnifications(records)
        shares = []
        priors = []
        for record in records:
            shares.append(self._make_row(record.shares))
            priors.append(self._make_row(record.prior_shares))
        self._shares = np.array(shares)
        self._priors = np.array(priors)

        self._is_class = make_class_matrix(labels, len(records[0].classes))

    @property
    def counts(self) -> list[int]:
        """Number of records of each class."""
        return self._is_class.sum(axis=0).tolist()

    def _make_row(self, shares: Mapping[str, float]) -> list[float]:
        """Shares in the order of the names; 0 for a magnification that the record lacks."""
        return [shares.get(name, 0.0) for name in self.names]

    def average(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Mean ``share``, ``prior`` and ``enrichment`` of some rows, ``(magnifications,)``.

        ``class_share``, ``class_prior`` and ``class_enrichment`` are the same by class, ``(classes, magnifications)``;
        NaN for a class without rows.
        """
        shares = self._shares[rows]
        priors = self._priors[rows]
        is_class = self._is_class[rows]
        counts = is_class.sum(axis=0)[:, None]

        share = shares.mean(axis=0)
        prior = priors.mean(axis=0)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN
            class_share = is_class.T @ shares / counts
            class_prior = is_class.T @ priors / counts
            return {
                "share": share,
                "prior": prior,
                "enrichment": share / prior,
                "class_share": class_share,
                "class_prior": class_prior,
                "class_enrichment": class_share / class_prior,
            }


def _list_magnifications(records: Iterable[PredictionRecord]) -> list[str]:
    """Names of the magnifications of all records, coarse to fine."""
    mpp_of_name: dict[str, float] = {}
    for record in records:
        for name, mpp in zip(record.geometry.names, record.magnifications, strict=True):
            mpp_of_name[name] = mpp
    return sorted(mpp_of_name, key=lambda name: -mpp_of_name[name])
