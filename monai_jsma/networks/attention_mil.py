# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The exhaustive rival: gated attention over the features of all patches (Ilse et al., ICML 2018).

No thumbnail is looked at; the attention is computed from what the patches show, so each of them must be read and
encoded first. It is called as :class:`~monai_jsma.networks.JSMANet` is and answers in the same names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Never, Self

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import Magnification, sorted_magnifications
from monai_jsma.networks.backbones import EncoderLike, Weights, select_weights
from monai_jsma.networks.classifier import build_classifier
from monai_jsma.networks.drawing import all_cells, weighted_sum
from monai_jsma.networks.exporting import NoExport
from monai_jsma.networks.finite import check_finite
from monai_jsma.networks.jsma import log_prior
from monai_jsma.networks.loading import keep_settings, prepare_loading, read_class_names
from monai_jsma.networks.patch_encoder import PatchEncoder, PatchSource
from monai_jsma.networks.removed_options import refuse_removed_options
from monai_jsma.networks.samplers import AllPatches, Sampler
from monai_jsma.networks.stain_check import check_stain, read_stain_norm
from monai_jsma.networks.tissue_mask import keep_to_tissue
from monai_jsma.tasks import MULTICLASS

__all__ = ["AttentionMIL", "GatedAttention"]


class GatedAttention(nn.Module):
    """``a_i`` proportional to ``exp(w . (tanh(V f_i) * sigmoid(U f_i)))`` (Ilse et al., Eq. 9).

    Args:
        in_channels: length of the features f.
        hidden: length of ``V f`` and ``U f`` (128 in their paper).
    """

    def __init__(self, in_channels: int, hidden: int = 128) -> None:
        super().__init__()
        self.content = nn.Linear(in_channels, hidden)
        self.gate = nn.Linear(in_channels, hidden)
        self.score = nn.Linear(hidden, 1, bias=False)  # the softmax cancels a bias

    def forward(self, features: Tensor, exists: Tensor) -> Tensor:
        """Log attention from features ``(batch, cells, in_channels)``: ``(batch, cells)``, -inf if not ``exists``."""
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            gated = torch.tanh(self.content(features)) * torch.sigmoid(self.gate(features))  # (batch, cells, hidden)
            scores = self.score(gated).squeeze(2)  # (batch, cells)
            return scores.masked_fill(~exists, float("-inf")).log_softmax(dim=1)


class AttentionMIL(NoExport):
    """Attention-based multiple instance learning over all patches of all magnifications.

    Where the tissue of an image is known (:class:`~monai_jsma.transforms.FindTissue`), only patches that hold some are
    read.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X").
        weights: weights of a backbone that is given by name, see :func:`~monai_jsma.networks.build_backbone`; None for
            random ones; or a mapping with those of ``"patch_backbone"``.
        patch_encoder: f, a :class:`~monai_jsma.networks.PatchEncoder`, or the timm name or module of one that needs no
            further settings.
        patch_size: height and width of a patch, in pixels of its magnification.
        aligned: put the patches of a whole image side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        stain_norm: None, or ``"macenko"``: images come with their stains normalized, see
            :class:`~monai_jsma.transforms.NormalizePyramidStain`; others are refused.
        hidden: length of the hidden layers of the attention.
        dropout: dropout rate before the classifier.
        class_names: names of the classes in the order of their labels. They are saved with the weights and must be
            those of the weights that are loaded; None takes them from there.
        task: ``"multiclass"``, ``"ordinal"`` or ``"multilabel"``, see :class:`~monai_jsma.networks.JSMANet`.
        thresholds: of multi-label, see :class:`~monai_jsma.networks.JSMANet`.

    Raises:
        ValueError: for a value that is not offered.

    Example::

        >>> net = AttentionMIL(4, (1.68, 0.84), weights=None, patch_encoder="test_resnet")
        >>> net.eval()(torch.rand(1, 3, 768, 1024)).shape
        torch.Size([1, 4])
    """

    way_out = "Its encoder alone can be exported."

    def __init__(
        self,
        num_classes: int,
        magnifications: Sequence[float | str | Magnification],
        *,
        weights: Weights,
        patch_encoder: PatchEncoder | EncoderLike = "inception_v3",
        patch_size: int = 299,
        aligned: bool = False,
        stain_norm: str | None = None,
        hidden: int = 128,
        dropout: float = 0.5,
        class_names: Sequence[str] | None = None,
        task: str = MULTICLASS,
        thresholds: float | Sequence[float] | None = None,
        **_old_options: Never,
    ) -> None:
        super().__init__()
        refuse_removed_options(_old_options)
        self.magnifications = sorted_magnifications(magnifications)
        prepare_loading(self, self.magnifications)
        self.patch_size = patch_size
        self.aligned = aligned
        self.stain_norm = read_stain_norm(stain_norm)
        if not isinstance(patch_encoder, PatchEncoder):
            patch_encoder = PatchEncoder(patch_encoder, weights=select_weights(weights, "patch_backbone"))
        self.patch_encoder = patch_encoder
        self.attention = GatedAttention(patch_encoder.num_features, hidden)
        self.task = task
        self.classifier = build_classifier(task, patch_encoder, num_classes, dropout=dropout, thresholds=thresholds)
        settings = {
            "num_classes": num_classes,
            "task": task,
            "patch_size": patch_size,
            "aligned": aligned,
            "stain_norm": str(self.stain_norm),
            **patch_encoder.describe(),
        }
        keep_settings(self, settings, class_names=class_names)

    def forward(
        self,
        image: Tensor,
        pyramid: PatchSource | None = None,
        *,
        return_attention: bool = False,
        sampler: Sampler | None = None,
        **_old_options: Never,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of a batch, from all patches.

        Args:
            image: whole images ``(batch, 3, height, width)`` at the finest of the magnifications; if ``pyramid`` is
                given, anything on the device.
            pyramid: what the patches are read from.
            return_attention: return a dictionary instead of logits.
            sampler: None or ``AllPatches()``, which is the same.

        Returns:
            logits ``(batch, classes)``, or a dictionary with ``logits``; ``attention``, ``log_attention``,
            ``log_prior``, ``cells`` and ``weights`` ``(batch, cells)``.

        Raises:
            ValueError: for a sampler that reads some patches, weights that are NaN or infinite, or an image with
                another ``stain_norm``.
            NotFiniteError: if attention or logits of an image are NaN or infinite; it names the image.
        """
        refuse_removed_options(_old_options)
        if not isinstance(sampler, AllPatches | None):
            raise ValueError(
                f"attention MIL reads all patches and draws none, but got {sampler!r}: set 'inference_sampler' to "
                "AllPatches()."
            )
        check_stain(self.stain_norm, pyramid)
        if pyramid is None:
            pyramid = TensorPyramidBatch(image, self.magnifications, self.patch_size, aligned=self.aligned)

        prior = keep_to_tissue(log_prior(pyramid.grids).to(image.device), pyramid, balanced=True)
        draw = all_cells(prior)
        features = self.patch_encoder.encode_draw(pyramid, draw, in_chunks=True)  # (batch, cells, features)
        log_attention = self.attention(features * self.patch_encoder.scale, draw.drawn)  # (batch, cells)
        attention = log_attention.exp()
        logits = self.classifier(weighted_sum(features, attention))  # NaN where the attention is
        check_finite(logits, "logits", network=self, image=image, pyramid=pyramid, may_wait=True)
        if not return_attention:
            return logits

        return {
            "logits": logits,
            "attention": attention,
            "log_attention": log_attention,
            "log_prior": prior,
            "cells": draw.cells,
            "weights": attention.detach(),
        }

    @property
    def evaluation_sampler(self) -> Sampler:
        """``AllPatches()``: nothing is drawn."""
        return AllPatches()

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of multi-label, the probability from which each class is present; None of other tasks."""
        return self.classifier.thresholds

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, from the constructor or the weights that were loaded; None if neither has them."""
        return read_class_names(self)

    def load_weights(self, weights: Weights) -> Self:
        """Give the backbone weights of :func:`~monai_jsma.networks.build_backbone`; None leaves it as it is."""
        self.patch_encoder.load_weights(select_weights(weights, "patch_backbone"))
        return self

    def unfreeze(self) -> None:
        """Let f learn from now on. Its features change then, and are no longer kept."""
        self.patch_encoder.unfreeze()
