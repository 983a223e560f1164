# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How the attention is spread over the magnifications (paper, Tables 3 and 4), for all pictures and by class.

The share of a magnification is its attention summed over its cells, its prior its part of all cells, as equal attention
would give; both are means over the regions. Enrichment is share over prior.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from monai_jsma.predictions.records import PredictionRecord

__all__ = ["AttentionShares"]


class AttentionShares:
    """Shares of the magnifications, over any rows of some records.

    Args:
        records: at least one.
        classes: index of the class of each record ``(n,)``, true or predicted.
    """

    def __init__(self, records: Sequence[PredictionRecord], classes: np.ndarray) -> None:
        shares, priors = [r.shares for r in records], [r.prior_shares for r in records]
        spacings = {n: m for r in records for n, m in zip(r.geometry.names, r.magnifications, strict=True)}
        self.names = sorted(spacings, key=lambda name: -spacings[name])
        self._shares = np.array([[share.get(name, 0.0) for name in self.names] for share in shares])
        self._priors = np.array([[prior.get(name, 0.0) for name in self.names] for prior in priors])
        self._members = classes[:, None] == np.arange(len(records[0].classes))

    def __call__(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Means of some rows: ``share``, ``prior`` and ``enrichment`` ``(magnifications,)``.

        ``class_share`` and so on are the same by class ``(classes, magnifications)``; NaN for one that is not there.
        """
        share, prior, members = self._shares[rows], self._priors[rows], self._members[rows]
        with np.errstate(invalid="ignore"):
            class_share, class_prior = (members.T @ part / members.sum(axis=0)[:, None] for part in (share, prior))
            return {
                **_enriched("", share.mean(axis=0), prior.mean(axis=0)),
                **_enriched("class_", class_share, class_prior),
            }


def _enriched(prefix: str, share: np.ndarray, prior: np.ndarray) -> dict[str, np.ndarray]:
    return {f"{prefix}share": share, f"{prefix}prior": prior, f"{prefix}enrichment": share / prior}
