# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The classifier g, and what a sampler is given to read with: the encoder f and g over the pyramids of a batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from monai_jsma.networks.certified import LinearHead
from monai_jsma.networks.drawing import Draw
from monai_jsma.networks.patch_encoder import PatchEncoder, PatchSource

__all__ = ["BagClassifier", "BagReader"]


class BagClassifier(nn.Linear):
    """Logits of bags: dropout and a linear layer.

    Args:
        encoder: encoder of the features; it says by what factor they are scaled.
        num_classes: number of labels.
        dropout: dropout rate of the features of a bag.

    Raises:
        ValueError: for fewer than two classes.
    """

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
            return super().forward(scaled * mask)


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

    def linear_head(self) -> LinearHead:
        """The classifier as it meets features of length 1.

        Raises:
            ValueError: if the features are not of length 1, or the classifier is not linear.
        """
        if not self.encoder.has_unit_length or type(self.classifier) is not BagClassifier:
            raise ValueError(
                "Certified and Confident need features of length 1 and a linear classifier, but feature_norm is "
                f"{self.encoder.feature_norm!r} and the classifier {type(self.classifier).__name__}: train with "
                "feature_norm 'l2' or 'standardized', or evaluate with another sampler, as TopK or AllPatches."
            )
        weight = self.classifier.weight
        bias = self.classifier.bias
        if bias is None:
            bias = weight.new_zeros(len(weight))
        return LinearHead(
            weight=weight * self.classifier.scale,
            bias=bias,
            non_negative=self.encoder.non_negative,
        )
