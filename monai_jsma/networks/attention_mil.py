# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The exhaustive rival: gated attention over the features of all patches (Ilse et al., ICML 2018).

No thumbnail is looked at; the attention is made of what the patches show, so each of them must be read and encoded
first. It is called as :class:`~monai_jsma.networks.JSMANet` is and answers in the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import Magnification
from monai_jsma.networks.attention import log_prior
from monai_jsma.networks.patches import PatchNetwork, PatchSource, Weights
from monai_jsma.networks.sampling import all_cells

__all__ = ["AttentionMIL", "GatedAttention"]


class GatedAttention(nn.Module):
    """``a_i`` proportional to ``exp(w . (tanh(V f_i) * sigmoid(U f_i)))`` (Ilse et al., Eq. 9).

    Args:
        in_channels: length of the features f.
        hidden: length of ``V f`` and ``U f`` (128 in their paper).
    """

    def __init__(self, in_channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.content, self.gate = nn.Linear(in_channels, hidden), nn.Linear(in_channels, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)  # the softmax cancels a bias

    def forward(self, features: Tensor, exists: Tensor) -> Tensor:
        """Log attention from features ``(batch, cells, in_channels)``: ``(batch, cells)``, -inf if not ``exists``."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            scores = self.score(torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features)))
            return scores.squeeze(2).masked_fill(~exists, float("-inf")).log_softmax(dim=1)


class AttentionMIL(PatchNetwork):
    """Attention-based multiple instance learning over all patches of all magnifications.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X").
        weights: of the backbone, see :func:`~monai_jsma.networks.build_backbone`; None for random ones; or a mapping
            with those of ``"patch_backbone"``.
        patch_size: height and width of a patch, in pixels of its magnification.
        patch_backbone: f, a timm name or a module.
        hidden: length of the hidden layers of the attention.
        feature_norm: None, or ``"l2"`` so that no patch can outweigh another by its length.
        dropout: of the classifier.
        freeze_norm: keep batch statistics as they were loaded.
        chunk_size: patches read and encoded at once.
        aligned: put the patches of a whole picture side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        freeze_patch_backbone: f does not learn; the attention and g do.
        feature_cache: a folder where the features of a frozen f are kept, see
            :class:`~monai_jsma.networks.FeatureCache`.

    Raises:
        ValueError: for a value that is not offered.

    Example::

        >>> net = AttentionMIL(4, (1.68, 0.84), weights=None, patch_backbone="test_resnet")
        >>> net.eval()(torch.rand(1, 3, 768, 1024)).shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        num_classes: int,
        magnifications: Sequence[float | str | Magnification],
        weights: Weights,
        patch_size: int = 299,
        patch_backbone: str | nn.Module = "inception_v3",
        hidden: int = 128,
        feature_norm: str | None = None,
        dropout: float = 0.5,
        freeze_norm: bool = False,
        chunk_size: int = 64,
        aligned: bool = False,
        freeze_patch_backbone: bool = False,
        feature_cache: str | Path | None = None,
    ) -> None:
        options = feature_norm, dropout, freeze_norm, chunk_size, aligned, freeze_patch_backbone, feature_cache
        super().__init__(num_classes, magnifications, patch_size, *options)
        self.patch_backbone = self.make_backbone("patch_backbone", patch_backbone, weights, pooled=True)
        self.attention = GatedAttention(self.patch_backbone.num_features, hidden)
        self.classifier = nn.Linear(self.patch_backbone.num_features, num_classes)
        self.train()

    def forward(
        self,
        image: Tensor,
        pyramid: PatchSource | None = None,
        return_attention: bool = False,
        num_patches: int | str | None = None,
        draws: int = 0,
        max_patches: int | None = None,
        certified_chunk: int = 1,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of a batch, from all patches.

        Args:
            image: whole pictures ``(batch, 3, height, width)`` at the finest of the magnifications; if ``pyramid`` is
                given, anything on the device.
            pyramid: what the patches are read from.
            return_attention: return a mapping instead of logits.
            num_patches: ``"all"`` or None, which is the same.
            draws: 0.
            max_patches: of :class:`~monai_jsma.networks.JSMANet`; no number of patches that is allowed here needs it.
            certified_chunk: likewise.

        Returns:
            logits ``(batch, classes)``, or a mapping with ``logits``; ``attention``, ``log_attention``, ``log_prior``,
            ``cells`` and ``weights`` ``(batch, cells)``.

        Raises:
            ValueError: when asked for some patches, or for draws.
        """
        if num_patches not in (None, "all") or draws:
            raise ValueError(
                f"attention MIL reads all patches and draws none, but got num_patches={num_patches!r}, draws={draws}: "
                "set 'inference_patches' to 'all' and 'draws' to 0."
            )
        if pyramid is None:
            pyramid = TensorPyramidBatch(image, self.magnifications, self.patch_size, aligned=self.aligned)
        prior = log_prior(pyramid.grids).to(image.device)
        draw = all_cells(prior)
        features = self.patch_features(pyramid, draw, in_chunks=True)
        log_attention = self.attention(self.scaled(features), draw.drawn)
        attention = log_attention.exp()
        logits = self.classify(self.aggregate(features, attention))
        if not return_attention:
            return logits
        found = {"attention": attention, "log_attention": log_attention, "log_prior": prior}
        return {"logits": logits, **found, "cells": draw.cells, "weights": attention.detach()}
