# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The paper on one page: attend to a thumbnail, sample a few cells, read only their patches, classify them (Figure 1).

h encodes the thumbnail, A turns its map into one distribution over all cells of all magnifications, a sampler chooses
cells (:mod:`monai_jsma.networks.samplers`), f encodes their patches, and g classifies the weighted sum of features.

Cells are flat, coarse to fine and row-major inside a magnification. The attention is in float32 and in log space.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Never, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, logsigmoid
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import Magnification, sorted_magnifications
from monai_jsma.networks.backbones import (
    Backbone,
    EncoderLike,
    Weights,
    build_backbone,
    hold_frozen,
    select_weights,
    warn_once,
)
from monai_jsma.networks.classifier import BagReader, build_classifier
from monai_jsma.networks.drawing import is_possible
from monai_jsma.networks.exporting import NoExport
from monai_jsma.networks.finite import check_finite
from monai_jsma.networks.loading import keep_settings, prepare_loading, read_class_names
from monai_jsma.networks.patch_encoder import PatchEncoder, PatchSource
from monai_jsma.networks.removed_options import refuse_removed_options
from monai_jsma.networks.samplers import Pathwise, Sampler, TopK, TrainingSampler
from monai_jsma.networks.stain_check import check_stain, read_stain_norm
from monai_jsma.networks.standardizing import make_map_standardizer, name_norm, standardize_map
from monai_jsma.networks.thumbnail_cache import ThumbnailCache
from monai_jsma.networks.tissue_mask import keep_to_tissue
from monai_jsma.tasks import MULTICLASS

__all__ = [
    "AttentionNetwork",
    "JSMANet",
    "UniformAttention",
    "attention_dropout",
    "log_prior",
    "negative_entropy",
]

Grids = Sequence[tuple[int, int]]


class JSMANet(NoExport):
    """Joint spatial and magnification attention network.

    Where the tissue of an image is known (:class:`~monai_jsma.transforms.FindTissue`), only cells that hold some get
    attention.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X"); chosen by hand or by
            :func:`~monai_jsma.geometry.automatic_magnifications`. Weights of others are not loaded.
        weights: weights of the backbones that are given by name, see :func:`~monai_jsma.networks.build_backbone`; None
            for random ones; or a mapping with those of ``"thumbnail_backbone"`` and of ``"patch_backbone"``.
        sampler: how cells are drawn in training, and what the attention learns from: ``LeaveOneOut(k)``, ``Prefix(k)``,
            ``Pathwise(k)`` or ``AllPatches()``; ``Pathwise(5)``, the paper's, by default.
        thumbnail_encoder: h, a timm name or a module. With None no thumbnail is looked at: the attention is uniform,
            ``normalization`` has no effect, and evaluation draws as training does.
        patch_encoder: f, a :class:`~monai_jsma.networks.PatchEncoder`, or the timm name or module of one that needs no
            further settings; by default another backbone of h's name. If both hold one
            :class:`~monai_jsma.networks.Backbone`, f and h share it.
        thumbnail_size: height and width that ``image`` is averaged to when it is a whole image.
        patch_size: height and width of a patch, in pixels of its magnification.
        aligned: put the patches of a whole image side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        stain_norm: None, or ``"macenko"``: images come with their stains normalized, see
            :class:`~monai_jsma.transforms.NormalizePyramidStain`; others are refused.
        thumbnail_norm: None, or ``"standardized"``: the features of each place of the thumbnail have mean 0 and
            variance 1 in each channel over the training, then equal length, before the attention looks at them (see
            :class:`~monai_jsma.networks.FeatureStandardizer`): for an h that was trained on other images.
        normalization: normalization of the attention, ``"sigmoid"`` or ``"softmax"``.
        level_prior: None or ``"balanced"``, see :class:`~monai_jsma.networks.AttentionNetwork`.
        attention_dropout: share of the cells whose attention is set to 0 before sampling, in training.
        dropout: dropout rate before the classifier.
        freeze_norm: keep batch statistics as they were loaded. In training those of f would follow what is being
            sampled.
        freeze_thumbnail_encoder: h does not learn: it stays in evaluation mode; without h nothing is frozen.
        thumbnail_cache: folder where the maps of a frozen h are kept, see
            :class:`~monai_jsma.networks.ThumbnailCache`; without h, or with one that learns, nothing is.
        class_names: names of the classes in the order of their labels. They are saved with the weights and must be
            those of the weights that are loaded; None takes them from there.
        task: ``"multiclass"``; ``"ordinal"`` if the classes are grades, from the lowest to the highest; or
            ``"multilabel"`` if any number of the classes may be present.
        thresholds: of multi-label, the probability from which each class is present, one for each or one for all; None:
            0.5. They are not kept with the weights.

    Raises:
        ValueError: for a value that is not offered.

    Example::

        >>> net = JSMANet(4, (1.68, 0.84, 0.42), weights=None)
        >>> net.eval()(torch.rand(1, 3, 1536, 2048)).shape
        torch.Size([1, 4])
    """

    def __init__(
        self,
        num_classes: int,
        magnifications: Sequence[float | str | Magnification],
        *,
        weights: Weights,
        sampler: TrainingSampler | None = None,
        thumbnail_encoder: EncoderLike | None = "inception_v3",
        patch_encoder: PatchEncoder | EncoderLike | None = None,
        thumbnail_size: tuple[int, int] = (224, 299),
        patch_size: int = 299,
        aligned: bool = False,
        stain_norm: str | None = None,
        thumbnail_norm: str | None = None,
        normalization: str = "sigmoid",
        level_prior: str | None = None,
        attention_dropout: float = 0.2,
        dropout: float = 0.5,
        freeze_norm: bool = False,
        freeze_thumbnail_encoder: bool = False,
        thumbnail_cache: str | Path | None = None,
        class_names: Sequence[str] | None = None,
        task: str = MULTICLASS,
        thresholds: float | Sequence[float] | None = None,
        **_old_options: Never,
    ) -> None:
        super().__init__()
        refuse_removed_options(_old_options)
        self.magnifications = sorted_magnifications(magnifications)
        prepare_loading(self, self.magnifications)
        self.sampler = Pathwise(5) if sampler is None else _check_trains(sampler)
        self.thumbnail_size = tuple(thumbnail_size)
        self.patch_size = patch_size
        self.aligned = aligned
        self.stain_norm = read_stain_norm(stain_norm)
        self.level_prior = level_prior
        self.attention_dropout = attention_dropout
        self.freeze_norm = freeze_norm
        self.freeze_thumbnail_encoder = freeze_thumbnail_encoder
        self.thumbnail_cache: ThumbnailCache | None = None
        if thumbnail_cache is not None and freeze_thumbnail_encoder:
            self.thumbnail_cache = ThumbnailCache(thumbnail_cache)

        if patch_encoder is None:
            patch_encoder = _repeat_by_name(thumbnail_encoder)
        if patch_encoder is thumbnail_encoder and isinstance(patch_encoder, nn.Module):
            raise ValueError(
                "one module was given for both encoders; give two, or let f share h's weights: "
                "h = build_backbone(module, None), thumbnail_encoder=h, patch_encoder=PatchEncoder(h)."
            )
        self.thumbnail_encoder: Backbone | None = None  # h
        if thumbnail_encoder is not None:
            self.thumbnail_encoder = build_backbone(thumbnail_encoder, select_weights(weights, "thumbnail_backbone"))
        if not isinstance(patch_encoder, PatchEncoder):
            patch_encoder = PatchEncoder(patch_encoder, weights=select_weights(weights, "patch_backbone"))
        if patch_encoder.backbone is self.thumbnail_encoder and patch_encoder.frozen != freeze_thumbnail_encoder:
            raise ValueError(
                "a frozen patch_encoder would freeze h too, which shares its backbone, and the other way round: freeze "
                "both (freeze_thumbnail_encoder), or give f its own."
            )
        self.patch_encoder = patch_encoder  # f

        num_features = None if self.thumbnail_encoder is None else self.thumbnail_encoder.num_features
        self.thumbnail_standardizer = make_map_standardizer(thumbnail_norm, num_features)
        self.attention: nn.Module = UniformAttention(level_prior)  # A
        if self.thumbnail_encoder is not None:
            self.attention = AttentionNetwork(
                self.thumbnail_encoder.num_features,
                len(self.magnifications),
                normalization=normalization,
                level_prior=level_prior,
            )
        self.task = task
        self.classifier = build_classifier(
            task, patch_encoder, num_classes, dropout=dropout, thresholds=thresholds
        )  # g
        settings = self._describe(num_classes, normalization=normalization, level_prior=level_prior)
        keep_settings(self, settings, class_names=class_names)
        self.train()  # a new module is in training mode, but train() was not called: what is frozen must be

    def forward(
        self,
        image: Tensor,
        pyramid: PatchSource | None = None,
        *,
        return_attention: bool = False,
        sampler: Sampler | None = None,
        **_old_options: Never,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of a batch, from the thumbnail's attention and the sampled patches.

        Args:
            image: thumbnails ``(batch, 3, height, width)`` if ``pyramid`` is given, otherwise whole images at the
                finest of the magnifications; ``uint8``, or float in [0, 1].
            pyramid: what the patches are read from.
            return_attention: return a dictionary instead of logits.
            sampler: sampler of this call. By default training uses that of the constructor, and evaluation what its
                ``for_evaluation()`` gives; without a thumbnail encoder evaluation draws as training does.

        Returns:
            logits ``(batch, classes)``, or a dictionary with ``logits``; ``attention``, ``log_attention`` and
            ``log_prior`` ``(batch, cells)``; ``cells`` and ``weights`` of the patches ``(batch, k)``; and what else the
            sampler gives: ``LeaveOneOut`` and ``Prefix`` ``baseline_logits`` ``(batch, k, classes)`` and
            ``drawn_log_prob`` ``(batch, k)``, ``Draws`` ``draw_probabilities`` ``(batch, repeats, classes)``,
            ``Certified`` ``certified`` ``(batch,)`` and ``intervals`` ``(batch, classes, 2)``, ``Confident``
            ``certified`` and ``confidence`` ``(batch,)``. Those of an empty batch are empty.

        Raises:
            NotFiniteError: if attention or logits of an image are NaN or infinite; it names the image.
            ValueError: if weights of the network are, or for an image with another ``stain_norm``.
        """
        refuse_removed_options(_old_options)
        sampler = self._choose_sampler(sampler)
        pixels = image
        check_stain(self.stain_norm, pyramid)
        if pyramid is None:
            pyramid = TensorPyramidBatch(image, self.magnifications, self.patch_size, aligned=self.aligned)
            image = pyramid.thumbnail(self.thumbnail_size)  # type: ignore[arg-type]

        views: Sequence[bytes | None] | None = getattr(pyramid, "keys", None)
        log_attention = self.attend(image, pyramid.grids, views=views)  # (batch, cells)
        log_attention = keep_to_tissue(log_attention, pyramid, balanced=self.level_prior == "balanced")
        attention = log_attention.exp()
        check_finite(attention, "attention", network=self, image=pixels, pyramid=pyramid)
        log_prob = log_attention
        if self.training:
            keep = sampler.min_cells if isinstance(sampler, TrainingSampler) else 1
            log_prob = attention_dropout(log_attention, self.attention_dropout, keep=keep)
        reader = BagReader(self.patch_encoder, self.classifier, pyramid)
        sample = sampler.sample(log_prob, reader)
        check_finite(sample.outputs["logits"], "logits", network=self, image=pixels, pyramid=pyramid, may_wait=True)
        if not return_attention:
            return sample.outputs["logits"]  # (batch, classes)

        return {
            **sample.outputs,
            "attention": attention,
            "log_attention": log_attention,
            "log_prior": keep_to_tissue(log_prior(pyramid.grids).to(log_attention), pyramid, balanced=True),
            "cells": sample.cells,
            "weights": sample.weights,
        }

    def attend(
        self, thumbnail: Tensor, grids: Sequence[Grids], *, views: Sequence[bytes | None] | None = None
    ) -> Tensor:
        """log P of every cell ``(batch, cells)`` from thumbnails ``(batch, 3, height, width)``.

        Args:
            thumbnail: thumbnails of the images.
            grids: for each image the (rows, columns) of every magnification.
            views: for each image the key of its view, see :class:`~monai_jsma.networks.ThumbnailCache`.
        """
        if len(grids) == 0:
            return log_prior(grids).to(thumbnail.device)  # batch statistics of nothing would be NaN
        if self.thumbnail_encoder is None:
            return self.attention(thumbnail, grids)
        if self.thumbnail_cache is None:
            features = self.thumbnail_encoder(thumbnail)  # (batch, channels, height', width')
        else:
            features = self.thumbnail_cache.maps(self.thumbnail_encoder, thumbnail, views)
        if self.thumbnail_standardizer is not None:
            features = standardize_map(features, self.thumbnail_standardizer)
        return self.attention(features, grids)

    @property
    def evaluation_sampler(self) -> Sampler:
        """The sampler of an evaluation that is given none."""
        return self.sampler.for_evaluation() if self.thumbnail_encoder is not None else self.sampler

    def _choose_sampler(self, sampler: Sampler | None) -> Sampler:
        attends = self.thumbnail_encoder is not None
        if self.training:
            return self.sampler if sampler is None else _check_trains(sampler)
        if sampler is None:
            return self.evaluation_sampler
        if isinstance(sampler, TopK) and not attends:
            raise ValueError(
                "without a thumbnail encoder all cells have the same attention, and none has the highest: evaluate "
                f"with a sampler that draws, such as {self.sampler!r}, not with {sampler!r}."
            )
        trained = self.sampler.for_evaluation()
        if isinstance(sampler, TopK) and isinstance(trained, TopK) and sampler.normalize != trained.normalize:
            warn_once(
                f"{sampler!r} weighs the patches otherwise than the training with {self.sampler!r}, whose predictions "
                f"are those of TopK({sampler.k}, normalize={trained.normalize})."
            )
        return sampler

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of multi-label, the probability from which each class is present; None of other tasks."""
        return self.classifier.thresholds

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, from the constructor or the weights that were loaded; None if neither has them."""
        return read_class_names(self)

    def _describe(self, num_classes: int, *, normalization: str, level_prior: str | None) -> dict[str, object]:
        """The settings that the weights need to mean what they were trained for."""
        evaluation = self.sampler.for_evaluation()
        normalizes = not isinstance(evaluation, TopK) or evaluation.normalize
        settings: dict[str, object] = {
            "num_classes": num_classes,
            "patch_size": self.patch_size,
            "aligned": self.aligned,
            "stain_norm": str(self.stain_norm),
            "level_prior": str(level_prior),
            "bag_weights": "P / sum P" if normalizes else "P",
            "task": self.task,
            **self.patch_encoder.describe(),
        }
        if self.thumbnail_encoder is not None:
            settings["thumbnail_size"] = list(self.thumbnail_size)
            settings["thumbnail_norm"] = name_norm(self.thumbnail_standardizer)
            settings["normalization"] = normalization
            settings |= self.thumbnail_encoder.describe("thumbnail")
        return settings

    def load_weights(self, weights: Weights) -> Self:
        """Give the backbones weights of :func:`~monai_jsma.networks.build_backbone`; None leaves them as they are."""
        of_thumbnail = select_weights(weights, "thumbnail_backbone")
        if self.thumbnail_encoder is not None and of_thumbnail is not None:
            self.thumbnail_encoder.load_weights(of_thumbnail)
        self.patch_encoder.load_weights(select_weights(weights, "patch_backbone"))
        return self

    def unfreeze(self) -> None:
        """Let h and f learn from now on. What they give changes then, and is no longer kept."""
        self.freeze_thumbnail_encoder = False
        self.thumbnail_cache = None
        if self.thumbnail_encoder is not None:
            self.thumbnail_encoder.requires_grad_(True)
        self.patch_encoder.unfreeze()
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As for every module; but with ``freeze_norm`` batch normalization stays in evaluation mode, as a frozen h."""
        super().train(mode)
        frozen = self.thumbnail_encoder if self.freeze_thumbnail_encoder else None
        hold_frozen(self, frozen, freeze_norm=self.freeze_norm)
        return self


class AttentionNetwork(nn.Module):
    """A: the thumbnail's feature map to one distribution over all cells (paper, Sections 3.2 and 3.3).

    For each magnification average pooling to its grid and a 1x1 convolution give one logit a cell; then all logits are
    normalized together.

    Args:
        in_channels: number of channels of the thumbnail's feature map.
        num_magnifications: number of attention maps.
        normalization: ``"sigmoid"`` (the paper: sigmoids divided by their sum over ALL cells) or ``"softmax"``.
        level_prior: None, or ``"balanced"`` so that equal logits give each magnification (not each cell) the same
            share.
        bias: initial bias of the logits. Sigmoids start at -4, where they are still proportional to exp(logit): at 0
            they saturate and the gradient is several times weaker.

    Raises:
        ValueError: for an unknown normalization or level_prior.
    """

    def __init__(
        self,
        in_channels: int,
        num_magnifications: int,
        *,
        normalization: str = "sigmoid",
        level_prior: str | None = None,
        bias: float = -4.0,
    ) -> None:
        super().__init__()
        if normalization not in ("sigmoid", "softmax"):
            raise ValueError(f"unknown normalization '{normalization}'; choose 'sigmoid' or 'softmax'.")
        self.normalization = normalization
        self.level_prior = _check_prior(level_prior)
        self.logits = nn.ModuleList(nn.Conv2d(in_channels, 1, 1) for _ in range(num_magnifications))
        for conv in self.logits:
            nn.init.constant_(conv.bias, bias)  # type: ignore[arg-type]

    def forward(self, features: Tensor, grids: Sequence[Grids]) -> Tensor:
        """Log attention of a batch.

        Args:
            features: feature maps of the thumbnails ``(batch, channels, height, width)``.
            grids: for each image the (rows, columns) of every magnification.

        Returns:
            log probabilities ``(batch, cells)``, float32; -inf beyond the last cell of images with fewer cells. All are
            NaN for an image of which a logit is NaN or infinite.
        """
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            if len({tuple(grid) for grid in grids}) == 1:
                return self._log_attention(features, grids[0])
            # Every image is normalized over its own cells before padding, so that no mask can leak into a gradient.
            ragged = [self._log_attention(row[None], grid)[0] for row, grid in zip(features, grids)]
            return pad_sequence(ragged, batch_first=True, padding_value=float("-inf"))

    def _log_attention(self, features: Tensor, grids: Grids) -> Tensor:
        if len(grids) != len(self.logits):
            raise ValueError(
                f"the network attends to {len(self.logits)} magnifications, but the images have {len(grids)}; give "
                "LoadPyramid and the network the same magnifications."
            )
        # Averaging and a 1x1 convolution commute: of a slide's many cells only their logits are ever in memory.
        maps = []
        for conv, grid in zip(self.logits, grids):
            pooled = adaptive_avg_pool2d(conv(features), grid)  # (batch, 1, rows, columns)
            maps.append(pooled.flatten(1))
        logits = torch.cat(maps, dim=1)  # (batch, cells)

        # An infinite logit has a finite sigmoid: as NaN it makes all of its image NaN, which the network reports.
        logits = logits.masked_fill(~torch.isfinite(logits), float("nan"))
        weight = logsigmoid(logits) if self.normalization == "sigmoid" else logits
        if self.level_prior == "balanced":
            weight = weight + log_prior([grids]).to(weight)
        return weight.log_softmax(dim=1)


class UniformAttention(nn.Module):
    """Attention that does not look: every cell has the same share.

    Args:
        level_prior: None, or ``"balanced"`` so that every magnification has the same share, and its cells inside it.

    Raises:
        ValueError: for an unknown level_prior.
    """

    def __init__(self, level_prior: str | None = None) -> None:
        super().__init__()
        self.level_prior = _check_prior(level_prior)

    def forward(self, features: Tensor, grids: Sequence[Grids]) -> Tensor:
        """Log attention ``(batch, cells)`` of images with these grids; of the features only the device counts."""
        prior = log_prior(grids).to(features.device)
        if self.level_prior == "balanced":
            return prior
        return prior.masked_fill(is_possible(prior), 0.0).log_softmax(dim=1)


def log_prior(grids: Sequence[Grids]) -> Tensor:
    """The neutral distribution: equal shares for the magnifications, and inside each for its cells.

    Args:
        grids: for each image the (rows, columns) of every magnification.

    Returns:
        ``-log(m n_j)`` for each cell, ``(batch, cells)``; -inf where padded. Of no images ``(0, 1)``.
    """
    if len(grids) == 0:
        return torch.zeros(0, 1)
    priors = [_log_prior_of_one(tuple(grid)) for grid in grids]
    return pad_sequence(priors, batch_first=True, padding_value=float("-inf"))


@lru_cache(maxsize=256)
def _log_prior_of_one(grid: tuple[tuple[int, int], ...]) -> Tensor:
    """See :func:`log_prior`; regions of a slide, very many, have the same grids."""
    levels = []
    for rows, columns in grid:
        num_cells = rows * columns
        levels.append(-torch.tensor(float(len(grid) * num_cells)).log().expand(num_cells))
    return torch.cat(levels)


def attention_dropout(
    log_prob: Tensor, rate: float, *, keep: int = 1, generator: torch.Generator | None = None
) -> Tensor:
    """Set a part of the attention to 0 before sampling, so that other patches are explored (paper, Section 3.3).

    Of the N cells of an image exactly ``round(rate * N)`` are dropped, but at least ``max(keep, 1)`` stay; the rest is
    normalized again.

    Args:
        log_prob: log attention ``(batch, cells)``.
        rate: share of the cells to drop, in [0, 1].
        keep: number of cells that must stay, the number of patches to draw.
        generator: source of randomness; PyTorch's global one by default.

    Raises:
        ValueError: if the rate is outside [0, 1].
    """
    if not 0 <= rate <= 1:
        raise ValueError(f"attention dropout must be in [0, 1], but got {rate}.")
    exists = is_possible(log_prob)
    count = exists.sum(dim=1, keepdim=True)
    num_dropped = torch.minimum((rate * count).round(), count - max(keep, 1)).clamp_min(0)

    keys = torch.rand(log_prob.shape, generator=generator, device=log_prob.device)
    rank = keys.masked_fill(~exists, 2.0).argsort(dim=1).argsort(dim=1)  # a random order, padding last
    return log_prob.masked_fill(rank < num_dropped, float("-inf")).log_softmax(dim=1)


def negative_entropy(log_prob: Tensor, log_prior: Tensor | None = None) -> Tensor:
    """R = sum P log P of each image (paper, Eq. 3 and 4), or KL(P || prior) if a prior is given: ``(batch,)``.

    Cells of no attention (log P = -inf) count 0, in the value and in the gradient.
    """
    exists = is_possible(log_prob)
    log_p = log_prob.masked_fill(~exists, 0.0)
    relative = log_p
    if log_prior is not None:
        relative = log_p - log_prior.masked_fill(~exists, 0.0)
    terms = (log_p.exp() * relative).masked_fill(~exists, 0.0)
    return terms.sum(dim=1)


def _check_prior(level_prior: str | None) -> str | None:
    if level_prior not in (None, "balanced"):
        raise ValueError(f"unknown level_prior '{level_prior}'; choose None or 'balanced'.")
    return level_prior


def _check_trains(sampler: Sampler) -> TrainingSampler:
    if not isinstance(sampler, TrainingSampler):
        raise ValueError(
            f"from {sampler!r} the attention cannot learn: train with LeaveOneOut, Prefix, Pathwise or AllPatches, and "
            "give this one to JSMAInferer or forward(sampler=...) in evaluation."
        )
    return sampler


def _repeat_by_name(thumbnail_encoder: EncoderLike | None) -> EncoderLike:
    if thumbnail_encoder is None:
        raise ValueError("without a thumbnail_encoder there is none to repeat: name a patch_encoder.")
    return thumbnail_encoder
