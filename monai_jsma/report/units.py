# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What is scored: a region, or all regions of a file or group as one, with the mean of their probabilities."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np

from monai_jsma.predictions.measures import predictive_entropy
from monai_jsma.predictions.records import PredictionRecord

__all__ = ["BY", "Units", "make_units"]

BY = {"region": attrgetter("key"), "file": attrgetter("file"), "group": attrgetter("group")}


@dataclass(frozen=True)
class Units:
    """What is scored, in the order of its keys.

    Args:
        keys: what tells units apart.
        labels: index of the true classes ``(n,)``.
        probabilities: ``(n, classes)``.
        groups: name of each unit's group ``(n,)``.
        records: those of each unit.
    """

    keys: tuple[Hashable, ...]
    labels: np.ndarray
    probabilities: np.ndarray
    groups: np.ndarray
    records: tuple[tuple[PredictionRecord, ...], ...]

    @property
    def uncertainties(self) -> dict[str, np.ndarray]:
        """Of each unit ``(n,)`` its predictive entropy and, if all regions were drawn, the mean mutual information."""
        found = {"predictive_entropy": predictive_entropy(self.probabilities)}
        if all(record.draws for inside in self.records for record in inside):
            found["mutual_information"] = np.array([np.mean([r.mutual_information for r in rs]) for rs in self.records])
        return found

    def only(self, keys: Iterable[Hashable]) -> Units:
        """Some of the units, in the same order."""
        wanted = set(keys)
        rows = [i for i, key in enumerate(self.keys) if key in wanted]
        kept = tuple(self.keys[i] for i in rows), tuple(self.records[i] for i in rows)
        return Units(kept[0], self.labels[rows], self.probabilities[rows], self.groups[rows], kept[1])


def make_units(records: Iterable[PredictionRecord], by: str = "region") -> Units | None:
    """The units of all records that have a label; None if none has.

    Args:
        records: of one run.
        by: "region", "file" or "group".

    Raises:
        ValueError: when regions of one unit differ in label or group.
    """
    members: dict = defaultdict(list)
    for record in records:
        if record.label is not None:
            members[BY[by](record)].append(record)
    for key, inside in members.items():
        for what in ("label", "group"):
            values = {getattr(record, what) for record in inside}
            if len(values) > 1:
                found = [inside[0].classes[v] for v in sorted(values)] if what == "label" else sorted(values)
                raise ValueError(f"{key}: its regions have the {what}s {', '.join(found)}; score them --by region.")
    if not members:
        return None
    keys = sorted(members)
    return Units(
        keys=tuple(keys),
        labels=np.array([members[key][0].label for key in keys]),
        probabilities=np.array([np.mean([r.probabilities for r in members[key]], axis=0) for key in keys]),
        groups=np.array([members[key][0].group for key in keys]),
        records=tuple(tuple(members[key]) for key in keys),
    )
