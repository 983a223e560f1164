# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Where the attention goes, as numbers: shares of the magnifications (paper, Tables 3 and 4) and hits of a known truth.

The share of a magnification in an image is the attention summed over its cells; its prior share is the share that
uniform attention would have; its enrichment is the mean share over the mean prior share. Images may differ in their
grids. The number of patches that are read is measured too.

Grades are scored by the quadratic kappa, multi-label by the mean AUC of its classes: numbers by which a training can
choose its model.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine
from ignite.exceptions import NotComputableError
from ignite.metrics import EpochMetric, Metric
from monai.handlers import from_engine
from monai.metrics import compute_roc_auc

from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.predictions.measures import magnification_shares, prior_shares

__all__ = [
    "AttentionOnTruth",
    "AttentionShare",
    "MeanAUC",
    "PairClasses",
    "PatchesRead",
    "QuadraticKappa",
    "pair_labels",
]

Pair = tuple[Any, Any]  # what is predicted and what is true: tensors of a batch, or lists with one for each image


class _EvidenceMetric(Metric):
    """Means over all images of several named numbers, written to ``engine.state.metrics`` as ``<metric>_<number>``.

    It needs the engine's batch as well as its output, because only the pyramid of an image knows its cells. Sums are
    gathered by name, so that a process without images does no harm. As several numbers it cannot be the key metric.
    """

    _nothing = "there was no image to measure: is the datalist of this evaluation empty?"

    def __init__(self) -> None:
        super().__init__()

    def reset(self) -> None:
        """Forget all images."""
        self._count = 0
        self._sums: defaultdict = defaultdict(float)

    @abstractmethod
    def measure(self, evidence: Evidence) -> dict[str, float] | None:
        """The numbers of one image; None where it has none."""

    def update(self, output: Sequence[Mapping[str, float]]) -> None:
        """Add the numbers of some images."""
        for numbers in output:
            self._count += 1
            for name, value in numbers.items():
                self._sums[name] += value

    def compute(self) -> dict[str, float]:
        """Mean of every number over the images of all processes.

        Raises:
            NotComputableError: if no image has numbers.
        """
        state = (self._count, dict(self._sums))
        states: Any = [state]
        if idist.get_world_size() > 1:
            states = idist.all_gather(state)

        total_count = 0
        total_sums: defaultdict = defaultdict(float)
        for count, sums in states:
            total_count += count
            for name, value in sums.items():
                total_sums[name] += value
        if total_count == 0:
            raise NotComputableError(self._nothing)
        return {name: total_sums[name] / total_count for name in sorted(total_sums)}

    @torch.no_grad()
    def iteration_completed(self, engine: Engine) -> None:
        """Add the images of the engine's last batch."""
        batch = []
        for evidence in collect_evidence(engine):
            numbers = self.measure(evidence)
            if numbers is not None:
                batch.append(numbers)
        self.update(batch)

    def completed(self, engine: Engine, name: str) -> None:
        """Write each number as a scalar of its own, as MONAI's handlers need them."""
        numbers = self.compute()
        for key, value in numbers.items():
            engine.state.metrics[f"{name}_{key}"] = value


class AttentionShare(_EvidenceMetric):
    """Mean share of the attention that each magnification gets, and its enrichment over uniform attention.

    Attached as ``"attention"`` it writes ``attention_share_100X``, ``attention_enrichment_100X`` and so on.

    Example::

        >>> evaluator = JSMAEvaluator(..., additional_metrics={"attention": AttentionShare()})  # doctest: +SKIP
    """

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Share and prior share of every magnification in one image."""
        numbers = {}
        shares = magnification_shares(evidence.geometry, evidence.attention)
        for name, share in shares.items():
            numbers[f"share_{name}"] = share
        priors = prior_shares(evidence.geometry)
        for name, prior in priors.items():
            numbers[f"prior_{name}"] = prior
        return numbers

    def compute(self) -> dict[str, float]:
        """Mean shares ``share_<magnification>`` and their ``enrichment_<magnification>``."""
        means = super().compute()
        shares = {}
        enrichments = {}
        for key, mean in means.items():
            if not key.startswith("share_"):
                continue
            name = key.removeprefix("share_")
            prior = means[f"prior_{name}"]
            shares[key] = mean
            enrichments[f"enrichment_{name}"] = mean / prior
        return shares | enrichments


class AttentionOnTruth(_EvidenceMetric):
    """How well attention and draws meet the answer of images that have one, such as the synthetic ones.

    In the datalist, ``cell`` holds the flat indices of the true cells in the image as stored, ``level`` the name of
    their magnification ("100X"). Images without them are left out. Attached as ``"truth"`` it writes
    ``truth_cell_attention`` and ``truth_magnification_attention``, the mean attention on the true cells and on the true
    magnification, and ``truth_cell_drawn``, the share of images of which at least one true cell was drawn.
    """

    _nothing = "no image has an answer: give 'cell' and 'level' in the datalist, or leave AttentionOnTruth out."

    def measure(self, evidence: Evidence) -> dict[str, float] | None:
        """Attention on the truth of one image; None where that is unknown.

        Raises:
            ValueError: if the true magnification is not one of the image's.
        """
        true_name = evidence.true_magnification
        if evidence.true_cells is None or true_name is None:
            return None
        slices = evidence.geometry.slices
        if true_name not in slices:
            raise ValueError(f"{evidence.file}: 'level' is {true_name!r}, which is none of {', '.join(slices)}.")
        attention = evidence.attention
        is_true = np.isin(evidence.stored_cells, np.ravel(evidence.true_cells))
        is_drawn = evidence.weights != 0
        drawn = evidence.cells[is_drawn]
        of_magnification = attention[slices[true_name]]
        return {
            "cell_attention": float(attention[is_true].sum()),
            "magnification_attention": float(of_magnification.sum()),
            "cell_drawn": float(is_true[drawn].any()),
        }


class PatchesRead(_EvidenceMetric):
    """Number of patches that were read of an image, and how often they were certainly enough.

    Attached as ``"patches"`` it writes ``patches_read``, the mean number, and, with certified stopping,
    ``patches_certified``, the share of images whose prediction is certified to be that of all patches; with
    ``Confident`` also ``patches_confidence``, the mean confidence that it is.
    """

    def measure(self, evidence: Evidence) -> dict[str, float]:
        """Number of patches read of one image, whether its prediction is certified, and how sure that is."""
        numbers = {"read": float(evidence.patches_read)}
        if evidence.certified is not None:
            numbers["certified"] = float(evidence.certified)
        if evidence.confidence is not None:
            numbers["confidence"] = evidence.confidence
        return numbers


# --------------------------------------------------------------------------------------------- grades and multi-label


def pair_labels(output: Any) -> Pair:
    """Predicted and true grade or class, as an ``output_transform`` of Ignite's metrics.

    Args:
        output: output of an engine with ``pred`` (probabilities or logits) and ``label``, decollated or not.
    """
    pred, label = from_engine(["pred", "label"])(output)
    if isinstance(pred, list):
        return [scores.argmax() for scores in pred], label
    return pred.argmax(dim=1), label


class PairClasses:
    """Predicted and true classes of multi-label, as an ``output_transform`` of Ignite's metrics with ``is_multilabel``.

    Args:
        thresholds: the probability from which each class is predicted; None, as networks of other tasks have it: scores
            and labels are passed on.
    """

    def __init__(self, thresholds: Sequence[float] | None) -> None:
        self.thresholds = None if thresholds is None else torch.tensor(thresholds)

    def __call__(self, output: Any) -> Pair:
        """1 or 0 for each class.

        Args:
            output: output of an engine with ``pred`` (probabilities) and ``label``, decollated or not.
        """
        pred, label = from_engine(["pred", "label"])(output)
        if self.thresholds is None:
            return pred, label
        if isinstance(pred, list):
            return [self._decide(probabilities) for probabilities in pred], [truth.long() for truth in label]
        return self._decide(pred), label.long()

    def _decide(self, probabilities: torch.Tensor) -> torch.Tensor:
        assert self.thresholds is not None
        return (probabilities >= self.thresholds.to(probabilities.device)).long()


class QuadraticKappa(EpochMetric):
    """Agreement of grades: 1 is perfect, 0 is chance; an error counts by the square of its distance.

    Where labels and predictions are all of one grade it is undefined, and 0 here, so that a model can be chosen by it.

    Args:
        num_classes: number of grades.
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        super().__init__(self._compute_kappa, output_transform=pair_labels, check_compute_fn=False)

    def _compute_kappa(self, predicted: torch.Tensor, labels: torch.Tensor) -> float:
        pairs = labels.long() * self.num_classes + predicted.long()
        counts = torch.bincount(pairs, minlength=self.num_classes**2).double()
        confusion = counts.reshape(self.num_classes, self.num_classes)
        grades = torch.arange(self.num_classes, dtype=torch.double)
        distance = (grades[:, None] - grades) ** 2
        by_chance = torch.outer(confusion.sum(dim=1), confusion.sum(dim=0)) / confusion.sum()
        expected = (distance * by_chance).sum()
        if expected == 0:
            return 0.0
        return float(1 - (distance * confusion).sum() / expected)


class MeanAUC(EpochMetric):
    """Mean over the classes of multi-label of the area under the ROC curve.

    A class without both images that have it and images that have it not is left out; 0.5 if all are.
    """

    def __init__(self) -> None:
        super().__init__(_average_auc, output_transform=from_engine(["pred", "label"]), check_compute_fn=False)


def _average_auc(probabilities: torch.Tensor, truth: torch.Tensor) -> float:
    areas: list[Any] = []
    for scores, is_present in zip(probabilities.T, truth.T):
        if len(is_present.unique()) == 2:
            areas.append(compute_roc_auc(scores, is_present))
    return float(np.mean(areas)) if areas else 0.5
