# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The network: attend to a thumbnail, sample a few cells, read only their patches, classify them (paper, Figure 1).

h is the thumbnail's backbone, A the attention network, f the patches' backbone and g the classifier. What is drawn and
how it is weighed is in :mod:`monai_jsma.networks.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import Magnification
from monai_jsma.networks.attention import AttentionNetwork, UniformAttention, attention_dropout, log_prior
from monai_jsma.networks.backbones import Backbone
from monai_jsma.networks.certified import read_until_certain
from monai_jsma.networks.patches import PatchNetwork, PatchSource, Weights
from monai_jsma.networks.rules import baseline_bags, check_rule, draw_by_rule, draw_log_prob
from monai_jsma.networks.sampling import Draw, pathwise_weights, top_cells

__all__ = ["JSMANet"]


class JSMANet(PatchNetwork):
    """Joint spatial and magnification attention network.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X"); chosen by hand or by
            :func:`~monai_jsma.geometry.automatic_magnifications`. Weights of others are not loaded.
        weights: of both backbones, see :func:`~monai_jsma.networks.build_backbone`; None for random ones; or a mapping
            with those of ``"thumbnail_backbone"`` and of ``"patch_backbone"``.
        thumbnail_size: height and width that ``image`` is averaged to when it is a whole picture.
        patch_size: height and width of a patch, in pixels of its magnification.
        num_patches: patches drawn for each picture, or ``"all"``: nothing is drawn, the bag is that of Eq. 1.
        thumbnail_backbone: h, a timm name or a module. With None no thumbnail is looked at: the attention is uniform,
            ``normalization`` has no effect, and evaluation draws as training does.
        patch_backbone: f; by default another backbone of h's name.
        shared_backbone: let f be h.
        normalization: of the attention, ``"sigmoid"`` or ``"softmax"``.
        level_prior: None or ``"balanced"``, see :class:`~monai_jsma.networks.AttentionNetwork`.
        attention_dropout: share of the cells reset to 0 before sampling, in training.
        learning_rule: what the attention learns from: ``"pathwise"`` (the gradient through the bag, as the paper),
            ``"leave_one_out"`` or ``"prefix"`` (score function with these baselines; the loss does the rest).
        estimator: of the bag by the pathwise rule, see :func:`~monai_jsma.networks.draw_cells`.
        centered: subtract the bag from the features before they are weighed: less variance in the attention's gradient,
            for a bias (by ``with_replacement`` a factor of 1 - 1 / k).
        feature_norm: None, or ``"l2"`` so that no patch can outweigh another by its length.
        dropout: of the classifier.
        freeze_norm: keep batch statistics as they were loaded. In training they would follow what is being sampled.
        chunk_size: patches read and encoded at once in evaluation, and in training on all patches.
        aligned: put the patches of a whole picture side by side, see :class:`~monai_jsma.geometry.PatchGeometry`.
        freeze_patch_backbone: f does not learn; h, A and g do.
        feature_cache: a folder where the features of a frozen f are kept, see
            :class:`~monai_jsma.networks.FeatureCache`.

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
        weights: Weights,
        thumbnail_size: tuple[int, int] = (224, 299),
        patch_size: int = 299,
        num_patches: int | str = 5,
        thumbnail_backbone: str | nn.Module | None = "inception_v3",
        patch_backbone: str | nn.Module | None = None,
        shared_backbone: bool = False,
        normalization: str = "sigmoid",
        level_prior: str | None = None,
        attention_dropout: float = 0.2,
        learning_rule: str = "pathwise",
        estimator: str = "paper",
        centered: bool = False,
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
        check_rule(num_patches, learning_rule, estimator, centered=centered)
        self.thumbnail_size, self.num_patches, self.centered = tuple(thumbnail_size), num_patches, centered
        self.attention_dropout, self.learning_rule, self.estimator = attention_dropout, learning_rule, estimator
        h, f = self._make_backbones(thumbnail_backbone, patch_backbone, shared_backbone, weights)
        self.thumbnail_backbone, self.patch_backbone = h, f
        if h is None:
            self.attention: nn.Module = UniformAttention(level_prior)
        else:
            self.attention = AttentionNetwork(h.num_features, len(self.magnifications), normalization, level_prior)
        self.classifier = nn.Linear(f.num_features, num_classes)
        self.train()  # a new module is in training mode without having been told: freeze_norm must be

    def _make_backbones(self, h: Any, f: Any, shared: bool, weights: Weights) -> tuple[Any, Backbone]:
        f = h if f is None else f
        if f is None:
            raise ValueError("without a thumbnail_backbone there is none to repeat: name a patch_backbone.")
        if shared and self.freeze_patch_backbone:
            raise ValueError("freeze_patch_backbone would freeze h too, which f is: leave shared_backbone out.")
        if shared and f != h:
            raise ValueError("shared_backbone=True lets f be h: leave patch_backbone out.")
        if f is h and isinstance(h, nn.Module) and not shared:
            raise ValueError("one module was given for both backbones; give two, or pass shared_backbone=True.")
        made = None if h is None else self.make_backbone("thumbnail_backbone", h, weights)
        if made is not None and shared:
            return made, made
        return made, self.make_backbone("patch_backbone", f, weights, pooled=True)

    def attend(self, thumbnail: Tensor, grids: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
        """log P of every cell ``(batch, cells)`` from thumbnails ``(batch, 3, height, width)``."""
        features = thumbnail if self.thumbnail_backbone is None else self.thumbnail_backbone(thumbnail)
        return self.attention(features, grids)

    def aggregate(self, features: Tensor, weights: Tensor) -> Tensor:
        """The bag ``sum_t weights_t f_t``: ``(batch, features)`` from ``(batch, k, features)`` and ``(batch, k)``."""
        bag = super().aggregate(features, weights)
        if not (self.centered and self.training):
            return bag
        mean = bag.detach()
        bag = super().aggregate(features - mean[:, None], weights)
        return bag - bag.detach() + mean  # value and features' gradient as before

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
        """Logits of a batch, from the thumbnail's attention and the sampled patches.

        Args:
            image: thumbnails ``(batch, 3, height, width)`` if ``pyramid`` is given, else whole pictures at the finest
                of the magnifications; ``uint8``, or float in [0, 1].
            pyramid: what the patches are read from.
            return_attention: return a mapping instead of logits.
            num_patches: patches of each picture in evaluation, ``"all"`` (Eq. 1), or ``"certified"``: as few as make
                the label of all certain, see :func:`~monai_jsma.networks.read_until_certain`; by default as in
                training.
            draws: in evaluation, 0 takes the patches of highest attention; R > 0 draws ``num_patches`` R times and
                averages.
            max_patches: cap of ``"certified"``; None for none.
            certified_chunk: patches of each picture that ``"certified"`` reads at once.

        Returns:
            logits ``(batch, classes)``, or a mapping with ``logits``; ``attention``, ``log_attention`` and
            ``log_prior`` ``(batch, cells)``; ``cells`` and ``weights`` of the patches ``(batch, k)``; in training by a
            score function rule also ``baseline_logits`` ``(batch, k, classes)`` and ``drawn_log_prob`` ``(batch, k)``;
            after draws also ``draw_probabilities``, of each draw ``(batch, draws, classes)``; if certified stopping was
            asked for also ``certified`` ``(batch,)``, whether the label is that of all patches, and
            ``intervals`` ``(batch, classes, 2)``, between which each of their probabilities lies.
        """
        if pyramid is None:
            whole = TensorPyramidBatch(image, self.magnifications, self.patch_size, aligned=self.aligned)
            image, pyramid = whole.thumbnail(self.thumbnail_size), whole  # type: ignore[arg-type]
        log_attention = self.attend(image, pyramid.grids)
        if self.training:
            draw, output = self._train_step(log_attention, pyramid)
        else:
            k = self.num_patches if num_patches is None else num_patches
            if k == "certified" and draws == 0:
                draw, output = read_until_certain(self, log_attention, pyramid, max_patches, certified_chunk)
            else:
                draw, output = self._evaluate(log_attention, pyramid, k, draws)
        if not return_attention:
            return output["logits"]
        prior = log_prior(pyramid.grids).to(log_attention)
        attention = {"attention": log_attention.exp(), "log_attention": log_attention, "log_prior": prior}
        return {**output, **attention, "cells": draw.cells, "weights": draw.weights}

    def _train_step(self, log_attention: Tensor, pyramid: PatchSource) -> tuple[Draw, dict[str, Tensor]]:
        k = self.num_patches
        log_prob = attention_dropout(log_attention, self.attention_dropout, 1 if k == "all" else int(k))
        draw = draw_by_rule(log_prob, k, self.learning_rule, self.estimator)
        features = self.patch_features(pyramid, draw, in_chunks=k == "all")
        if self.learning_rule == "pathwise":
            bag = self.aggregate(features, pathwise_weights(draw, log_prob))
            return draw, {"logits": self.classify(bag)}
        bag = self.aggregate(features, draw.weights)
        baselines = baseline_bags(features, self.learning_rule)
        logits = self.classify(torch.cat((bag[:, None], baselines), dim=1))
        drawn_log_prob = draw_log_prob(log_prob, draw.cells, in_order=self.learning_rule == "prefix")
        return draw, {"logits": logits[:, 0], "baseline_logits": logits[:, 1:], "drawn_log_prob": drawn_log_prob}

    def _evaluate(
        self, log_attention: Tensor, pyramid: PatchSource, k: int | str, draws: int
    ) -> tuple[Draw, dict[str, Tensor]]:
        if draws if k == "all" else isinstance(k, str) or k < 1 or draws < 0:
            raise ValueError(
                "num_patches must be a positive number and draws not negative, or 'all' or 'certified' and draws 0: "
                f"{k!r}, {draws}."
            )
        if draws == 0:
            draw = self._top(log_attention, k)
            features = self.patch_features(pyramid, draw, in_chunks=True)
            return draw, {"logits": self.classify(self.aggregate(features, draw.weights))}
        drawn = [draw_by_rule(log_attention, int(k), self.learning_rule, self.estimator) for _ in range(draws)]
        draw = Draw(*(torch.cat(parts, dim=1) for parts in zip(*drawn)))
        features = self.patch_features(pyramid, draw, in_chunks=True).unflatten(1, (draws, -1))
        bags = self.aggregate(features, draw.weights.unflatten(1, (draws, -1)))
        prob = self.classify(bags).float().softmax(dim=2)
        logits = prob.mean(dim=1).clamp_min(torch.finfo(prob.dtype).tiny).log()
        draw = draw._replace(weights=draw.weights / draws)
        return draw, {"logits": logits, "draw_probabilities": prob}

    def _top(self, log_attention: Tensor, k: int | str) -> Draw:
        if k == "all" or self.thumbnail_backbone is None:  # of uniform attention no cells are the highest
            return draw_by_rule(log_attention, k, self.learning_rule, self.estimator)
        # Eq. 2 sums P f as it is: what was trained so must be evaluated so.
        literal = self.learning_rule == "pathwise" and self.estimator == "paper"
        return top_cells(log_attention, int(k), normalize=not literal)
