# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The classifier g, and what a sampler is given to read with: the encoder f and g over the pyramids of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, softplus

from monai_jsma.networks.certified import LinearHead
from monai_jsma.networks.drawing import Draw
from monai_jsma.networks.patch_encoder import PatchEncoder, PatchSource
from monai_jsma.tasks import MULTILABEL, ORDINAL, check_task, read_thresholds

__all__ = ["BagClassifier", "BagReader", "MultiLabelClassifier", "OrdinalClassifier", "build_classifier", "find_logits"]

_GAP_OF_1 = 0.541324854612918  # the softplus of it is 1


class BagClassifier(nn.Linear):
    """Logits of bags: dropout and a linear layer.

    Args:
        encoder: encoder of the features; it says by what factor they are scaled.
        num_classes: number of labels.
        dropout: dropout rate of the features of a bag.

    Attributes:
        thresholds: of multi-label, the probability from which each class is present; None: one class is the label.

    Raises:
        ValueError: for fewer than two classes.
    """

    thresholds: tuple[float, ...] | None = None

    def __init__(self, encoder: PatchEncoder, num_classes: int, *, dropout: float = 0.5) -> None:
        if num_classes < 2:
            raise ValueError(f"num_classes {num_classes} must be at least 2.")
        super().__init__(encoder.num_features, num_classes)
        self.dropout = nn.Dropout(dropout)
        self.scale = encoder.scale

    def forward(self, bags: Tensor) -> Tensor:
        """Logits ``(batch, ..., classes)`` of bags ``(batch, ..., features)``.

        They are compared with each other. So they are computed outside autocast, and bags of one image share one
        dropout mask.
        """
        mask_shape = list(bags.shape)
        for axis in range(1, bags.ndim - 1):
            mask_shape[axis] = 1
        ones = bags.new_ones(mask_shape)
        mask = self.dropout(ones)
        with torch.autocast(bags.device.type, enabled=False):
            scaled = bags * self.scale
            weight, bias = self.make_layer()
            return linear(scaled * mask, weight, bias)

    def make_layer(self) -> tuple[Tensor, Tensor | None]:
        """Weight ``(classes, features)`` and bias ``(classes,)`` of the linear layer."""
        return self.weight, self.bias


class OrdinalClassifier(BagClassifier):
    """Logits of grades: one score s of a bag, and rising thresholds t between neighboring grades.

    ``z_c = (s - t_1) + ... + (s - t_c)``, and 0 of the lowest grade: adjacent-category logits with one slope (Goodman
    1983). As the thresholds rise, the most probable grade is the number of thresholds below the score, and a change of
    the score moves it to a neighbor. The logits are linear in the bag, as those of classes are: so the cross entropy is
    the likelihood of the grades, and certificates hold as they do for classes. The gradient of the cross entropy by the
    score is the mean grade minus the true one: a distant error counts more.

    Args:
        encoder: encoder of the features; it says by what factor they are scaled.
        num_classes: number of grades.
        dropout: dropout rate of the features of a bag.

    Raises:
        ValueError: for fewer than two grades.
    """

    def __init__(self, encoder: PatchEncoder, num_classes: int, *, dropout: float = 0.5) -> None:
        super().__init__(encoder, num_classes, dropout=dropout)
        score = self.weight[:1].detach().clone()
        self.weight = nn.Parameter(score)  # (1, features)
        self.register_parameter("bias", None)
        middle = (num_classes - 2) / 2
        self.first_threshold = nn.Parameter(torch.tensor(-middle))
        self.gaps = nn.Parameter(torch.full((num_classes - 2,), _GAP_OF_1))  # of the others, before softplus

    @property
    def grade_thresholds(self) -> Tensor:
        """The thresholds of the score, rising ``(classes - 1,)``."""
        gaps = softplus(self.gaps)
        first = self.first_threshold[None]
        return torch.cat((first, first + gaps.cumsum(dim=0)))

    def make_layer(self) -> tuple[Tensor, Tensor]:
        """Weight ``(classes, features)`` and bias ``(classes,)`` of the linear layer."""
        grades = torch.arange(self.out_features, device=self.weight.device, dtype=self.weight.dtype)
        thresholds = self.grade_thresholds
        lowest = thresholds.new_zeros(1)
        bias = -torch.cat((lowest, thresholds.cumsum(dim=0)))
        return grades[:, None] * self.weight, bias


class MultiLabelClassifier(BagClassifier):
    """Logits of classes that are present or absent, each by itself: their sigmoids are the probabilities.

    Args:
        encoder: encoder of the features; it says by what factor they are scaled.
        num_classes: number of classes.
        dropout: dropout rate of the features of a bag.
        thresholds: the probability from which each class is present, one for each or one for all; None: 0.5.

    Raises:
        ValueError: for fewer than two classes, or thresholds that are not between 0 and 1.
    """

    def __init__(
        self,
        encoder: PatchEncoder,
        num_classes: int,
        *,
        dropout: float = 0.5,
        thresholds: float | Sequence[float] | None = None,
    ) -> None:
        super().__init__(encoder, num_classes, dropout=dropout)
        self.thresholds = read_thresholds(MULTILABEL, thresholds, num_classes)


def find_logits(probabilities: Tensor, *, multi_label: bool) -> Tensor:
    """Finite logits whose softmax, or of multi-label whose sigmoid, is the probabilities ``(..., classes)``."""
    smallest = torch.finfo(probabilities.dtype).tiny
    logits = probabilities.clamp_min(smallest).log()
    if not multi_label:
        return logits
    absent = 1 - probabilities
    return logits - absent.clamp_min(smallest).log()


def build_classifier(
    task: str,
    encoder: PatchEncoder,
    num_classes: int,
    *,
    dropout: float = 0.5,
    thresholds: float | Sequence[float] | None = None,
) -> BagClassifier:
    """Build the classifier of a task.

    Args:
        task: ``"multiclass"``, ``"ordinal"`` or ``"multilabel"``.
        encoder: encoder of the features.
        num_classes: number of classes or grades.
        dropout: dropout rate of the features of a bag.
        thresholds: of multi-label, see :class:`MultiLabelClassifier`.

    Raises:
        ValueError: for another task, fewer than two classes, or thresholds that do not fit.
    """
    check_task(task)
    if task == MULTILABEL:
        return MultiLabelClassifier(encoder, num_classes, dropout=dropout, thresholds=thresholds)
    read_thresholds(task, thresholds, num_classes)
    if task == ORDINAL:
        return OrdinalClassifier(encoder, num_classes, dropout=dropout)
    return BagClassifier(encoder, num_classes, dropout=dropout)


_LINEAR = (BagClassifier, OrdinalClassifier, MultiLabelClassifier)  # themselves: a subclass need not be


@dataclass(frozen=True)
class BagReader:
    """What a sampler reads with: f and g over the images of a batch, a :class:`~monai_jsma.networks.PatchReader`.

    Args:
        encoder: f.
        classifier: g; its mode, training or evaluation, is the network's.
        pyramid: what the patches are read from.
    """

    encoder: PatchEncoder
    classifier: nn.Module
    pyramid: PatchSource

    def features(self, draw: Draw, *, in_chunks: bool = False) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``."""
        in_chunks = in_chunks or not self.classifier.training
        return self.encoder.encode_draw(self.pyramid, draw, in_chunks=in_chunks)

    def classify(self, bags: Tensor) -> Tensor:
        """Logits ``(batch, ..., classes)`` of bags ``(batch, ..., features)``."""
        return self.classifier(bags)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probability of each class ``(..., classes)``."""
        return logits.softmax(dim=-1) if self._thresholds is None else logits.sigmoid()

    def logits(self, probabilities: Tensor) -> Tensor:
        """Finite logits that give the probabilities ``(..., classes)``."""
        return find_logits(probabilities, multi_label=self._thresholds is not None)

    @property
    def _thresholds(self) -> tuple[float, ...] | None:
        return getattr(self.classifier, "thresholds", None)

    def linear_head(self) -> LinearHead:
        """The classifier as it meets features of length 1.

        Raises:
            ValueError: if the features are not of length 1, or the classifier is not linear.
        """
        if not self.encoder.has_unit_length or type(self.classifier) not in _LINEAR:
            raise ValueError(
                "Certified and Confident need features of length 1 and a linear classifier, but feature_norm is "
                f"{self.encoder.feature_norm!r} and the classifier {type(self.classifier).__name__}: train with "
                "feature_norm 'l2' or 'standardized', or evaluate with another sampler, as TopK or AllPatches."
            )
        assert isinstance(self.classifier, BagClassifier)
        weight, bias = self.classifier.make_layer()
        if bias is None:
            bias = weight.new_zeros(len(weight))
        return LinearHead(
            weight=weight * self.classifier.scale,
            bias=bias,
            non_negative=self.encoder.non_negative,
            thresholds=self.classifier.thresholds,
        )
