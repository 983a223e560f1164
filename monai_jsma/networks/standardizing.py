# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Features of mean 0 and variance 1 in each channel, over the patches, or the places of thumbnails, of the training.

Features of a network that was trained on photographs share one direction on tissue: they are long, and nearly
parallel. Of length 1 they are then nearly equal, and a classifier has to tell apart what differs in the second digit.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn

__all__ = ["FeatureStandardizer", "make_map_standardizer", "name_norm", "standardize_map", "unit_length"]

_MEMORY = 10_000  # patches after which older ones begin to count less: f may learn, and its features move
_SMALLEST_VARIANCE = 1e-3  # relative to the mean over the channels: of a channel that hardly varies little is known


class FeatureStandardizer(nn.Module):
    """Subtracts the mean of each channel and divides by its standard deviation, as they were in the training.

    In training mode it first takes in the features it is given, weighed by their number. All patches so far count
    equally, until there are 10,000; then older ones count less and less. The statistics themselves have no gradient.
    They are buffers, and so belong to the weights; in evaluation they stay as they are. Processes that train together
    take in each other's features: each must call this equally often.

    Args:
        num_features: number of channels.
    """

    mean: Tensor
    variance: Tensor
    num_patches: Tensor

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(num_features))
        self.register_buffer("variance", torch.ones(num_features))
        self.register_buffer("num_patches", torch.tensor(0.0))

    def forward(self, features: Tensor) -> Tensor:
        """Standardized features ``(n, channels)``, float32."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if self.training:
                self._take_in(features.detach())
            return (features - self.mean) / self.deviation

    @property
    def deviation(self) -> Tensor:
        """Standard deviation of each channel, by which features are divided: above 0 ``(channels,)``."""
        floor = _SMALLEST_VARIANCE * self.variance.mean()
        deviation = (self.variance + floor).sqrt()
        smallest = torch.finfo(deviation.dtype).tiny
        return deviation.clamp_min(smallest)

    @torch.no_grad()
    def _take_in(self, features: Tensor) -> None:
        """Move the statistics to those of all patches so far, of this process and of the others."""
        finite = torch.isfinite(features).all(dim=1, keepdim=True)
        count = _sum_over_processes(finite.sum().float())
        present = count.clamp_min(1)
        total = _sum_over_processes(features.masked_fill(~finite, 0).sum(dim=0))
        mean = total / present
        squares = (features - mean).square().masked_fill(~finite, 0).sum(dim=0)
        variance = _sum_over_processes(squares) / present

        known = self.num_patches.clamp_max(_MEMORY)
        share = count / (known + present)  # of the new patches
        step = mean - self.mean
        # The variance of a mixture: that inside its parts, and that of their means.
        inside = torch.lerp(self.variance, variance, share)
        self.variance.copy_(inside + share * (1 - share) * step.square())
        self.mean.add_(share * step)
        self.num_patches.add_(count)


def make_map_standardizer(thumbnail_norm: str | None, num_features: int | None) -> FeatureStandardizer | None:
    """What standardizes the map of a thumbnail, see :func:`standardize_map`.

    Args:
        thumbnail_norm: None, or ``"standardized"``.
        num_features: number of channels of the map; None: there is no map.

    Raises:
        ValueError: for another ``thumbnail_norm``.
    """
    if thumbnail_norm not in (None, "standardized"):
        raise ValueError(f"unknown thumbnail_norm '{thumbnail_norm}'; choose None or 'standardized'.")
    if thumbnail_norm is None or num_features is None:
        return None
    return FeatureStandardizer(num_features)


def name_norm(standardizer: FeatureStandardizer | None) -> str:
    """The ``thumbnail_norm`` that made it, as settings of trained weights have it."""
    return "None" if standardizer is None else "standardized"


def unit_length(features: Tensor) -> Tensor:
    """Features ``(n, channels)`` of length 1; NaN where a length is not finite."""
    # Where the length overflows, normalization gives 0: the patch would count nothing, and nobody would know.
    length = torch.linalg.vector_norm(features, dim=1, keepdim=True)
    features = nn.functional.normalize(features, dim=1)
    return features.masked_fill(~torch.isfinite(length), float("nan"))


def standardize_map(features: Tensor, standardizer: FeatureStandardizer) -> Tensor:
    """A map ``(batch, channels, height, width)`` standardized over its places, each then of length sqrt(channels)."""
    batch, channels, height, width = features.shape
    places = features.permute(0, 2, 3, 1).reshape(-1, channels)  # (batch * height * width, channels)
    places = unit_length(standardizer(places)) * channels**0.5
    return places.view(batch, height, width, channels).permute(0, 3, 1, 2)


def _sum_over_processes(values: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        distributed.all_reduce(values)
    return values
