# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The parts of the networks that are the same for every image: what can be exported as a graph."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from monai_jsma.networks.backbones import Backbone
from monai_jsma.networks.classifier import BagClassifier
from monai_jsma.networks.drawing import weighted_sum
from monai_jsma.networks.patch_encoder import PatchEncoder
from monai_jsma.networks.standardizing import FeatureStandardizer, unit_length

__all__ = ["PatchGraph", "ThumbnailGraph"]


class ThumbnailGraph(nn.Module):
    """Thumbnails to the logits of each magnification at the places of the encoder's map.

    What is left of the attention, the mean over the places of each cell and the normalization over all cells, depends
    on the size of the image.

    Args:
        encoder: h, or the encoder of a stage of a zoom.
        standardizer: what standardizes its map; None: nothing.
        convolutions: the 1x1 convolutions of the magnifications.
    """

    def __init__(
        self, encoder: Backbone, standardizer: FeatureStandardizer | None, convolutions: Iterable[nn.Module]
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.standardizer = None if standardizer is None else _Standardize(standardizer)
        self.convolutions = nn.ModuleList(convolutions)

    def forward(self, thumbnails: Tensor) -> Tensor:
        """Logits ``(images, magnifications, height', width')`` of ``uint8`` ``(images, 3, height, width)``."""
        features = self.encoder(thumbnails).float()
        if self.standardizer is not None:
            channels = features.shape[1]
            places = features.permute(0, 2, 3, 1).flatten(0, 2)
            places = unit_length(self.standardizer(places)) * channels**0.5
            height, width = features.shape[2:]
            features = places.unflatten(0, (-1, height, width)).permute(0, 3, 1, 2)
        maps = [convolution(features) for convolution in self.convolutions]
        return torch.cat(maps, dim=1)


class PatchGraph(nn.Module):
    """Patches and their weights to features and logits.

    Args:
        encoder: f.
        classifier: g.
    """

    def __init__(self, encoder: PatchEncoder, classifier: BagClassifier) -> None:
        super().__init__()
        self.encoder = encoder
        self.standardizer = None if encoder.standardizer is None else _Standardize(encoder.standardizer)
        self.classifier = classifier

    def forward(self, patches: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Features ``(n, features)`` of ``uint8`` patches ``(n, 3, patch, patch)``, and logits ``(classes,)``.

        Args:
            patches: the patches of an image.
            weights: their shares in the bag ``(n,)``.
        """
        features = self.encoder.pool(patches)
        if self.standardizer is not None:
            features = self.standardizer(features)
        if self.encoder.has_unit_length:
            features = unit_length(features)
        bag = weighted_sum(features, weights)
        weight, bias = self.classifier.make_layer()
        logits = nn.functional.linear(bag * self.classifier.scale, weight, bias)
        return features, logits


class _Standardize(nn.Module):
    """What a :class:`~monai_jsma.networks.FeatureStandardizer` does after the training.

    Args:
        trained: the trained one.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, trained: FeatureStandardizer) -> None:
        super().__init__()
        self.register_buffer("mean", trained.mean.clone())
        self.register_buffer("deviation", trained.deviation.clone())

    def forward(self, features: Tensor) -> Tensor:
        """Standardized features ``(n, channels)``."""
        return (features - self.mean) / self.deviation
