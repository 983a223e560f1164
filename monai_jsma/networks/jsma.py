# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The network: attend to a thumbnail, sample a few cells, read only their patches, classify them (paper, Figure 1).

h is the thumbnail's backbone, A the attention network, f the patches' backbone and g the classifier. What is drawn and
how it is weighed is in :mod:`monai_jsma.networks.sampling`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from monai_jsma.data.geometry import Magnification, to_mpp
from monai_jsma.data.tensor_pyramid import TensorPyramidBatch
from monai_jsma.networks.attention import AttentionNetwork, attention_dropout, log_prior
from monai_jsma.networks.backbones import build_backbone
from monai_jsma.networks.rules import LEARNING_RULES, baseline_bags, draw_by_rule, draw_log_prob
from monai_jsma.networks.sampling import ESTIMATORS, Draw, all_cells, draw_cells, pathwise_weights, top_cells

__all__ = ["JSMANet", "PatchSource"]


class PatchSource(Protocol):
    """What the network reads patches from: a :class:`~monai_jsma.data.PyramidBatch` or anything alike."""

    @property
    def grids(self) -> Sequence[tuple[tuple[int, int], ...]]:
        """Per picture the rows and columns of every magnification."""

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of picture ``pictures[i]``: ``(n, 3, patch, patch)``."""


class JSMANet(nn.Module):
    """Joint spatial and magnification attention network.

    Args:
        num_classes: number of labels.
        magnifications: spacings in um per pixel, or names ("100X").
        weights: of both backbones, see :func:`~monai_jsma.networks.build_backbone`; None for random ones.
        thumbnail_size: height and width that ``image`` is averaged to when it is a whole picture.
        patch_size: height and width of a patch, in pixels of its magnification.
        num_patches: patches drawn for each picture.
        thumbnail_backbone: h, a timm name or a module.
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
        chunk_size: patches read and encoded at once in evaluation.

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
        weights: str | None,
        thumbnail_size: tuple[int, int] = (224, 299),
        patch_size: int = 299,
        num_patches: int = 5,
        thumbnail_backbone: str | nn.Module = "inception_v3",
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
    ) -> None:
        super().__init__()
        for name, value, known in (
            ("learning_rule", learning_rule, LEARNING_RULES),
            ("estimator", estimator, ESTIMATORS),
            ("feature_norm", feature_norm, (None, "l2")),
        ):
            if value not in known:
                raise ValueError(f"unknown {name} '{value}'; choose one of {', '.join(map(str, known))}.")
        if (centered or learning_rule == "leave_one_out") and num_patches < 2:
            raise ValueError("leave_one_out and centered compare with other patches: num_patches must be at least 2.")
        if shared_backbone and patch_backbone not in (None, thumbnail_backbone):
            raise ValueError("shared_backbone=True lets f be h: leave patch_backbone out.")
        if num_patches < 1 or num_classes < 2:
            raise ValueError(f"num_patches {num_patches} must be at least 1 and num_classes {num_classes} at least 2.")
        self.magnifications = tuple(Magnification(m) for m in sorted(map(to_mpp, magnifications), reverse=True))
        self.thumbnail_size, self.patch_size, self.num_patches = tuple(thumbnail_size), patch_size, num_patches
        self.attention_dropout, self.learning_rule, self.estimator = attention_dropout, learning_rule, estimator
        self.centered, self.feature_norm = centered, feature_norm
        self.freeze_norm, self.chunk_size = freeze_norm, chunk_size
        self._names = (thumbnail_backbone, patch_backbone or thumbnail_backbone)
        self.thumbnail_backbone = build_backbone(self._names[0], weights)
        self.patch_backbone = self.thumbnail_backbone if shared_backbone else build_backbone(self._names[1], weights)
        if self.patch_backbone.model is self.thumbnail_backbone.model and not shared_backbone:
            raise ValueError("one module was given for both backbones; give two, or pass shared_backbone=True.")
        self.attention = AttentionNetwork(
            self.thumbnail_backbone.num_features, len(self.magnifications), normalization, level_prior
        )
        self.dropout = nn.Dropout(dropout)
        self.classifier = nn.Linear(self.patch_backbone.num_features, num_classes)
        self.train()  # a new module is in training mode without having been told: freeze_norm must be

    # ------------------------------------------------------------------------------------------------------- verbs

    def attend(self, thumbnail: Tensor, grids: Sequence[Sequence[tuple[int, int]]]) -> Tensor:
        """log P of every cell ``(batch, cells)`` from thumbnails ``(batch, 3, height, width)``."""
        return self.attention(self.thumbnail_backbone(thumbnail), grids)

    def encode(self, patches: Tensor) -> Tensor:
        """Features f ``(n, features)`` of patches ``(n, 3, patch, patch)``: the map's mean, of length 1 if ``l2``."""
        features = self.patch_backbone(patches).mean(dim=(2, 3)).float()
        return nn.functional.normalize(features, dim=1) if self.feature_norm == "l2" else features

    def aggregate(self, features: Tensor, weights: Tensor) -> Tensor:
        """The bag ``sum_t weights_t f_t``: ``(batch, features)`` from ``(batch, k, features)`` and ``(batch, k)``."""
        bag = (weights[..., None] * features).sum(dim=1)
        if self.centered and self.training:
            mean = bag.detach()
            bag = (weights[..., None] * (features - mean[:, None])).sum(dim=1)
            return bag - bag.detach() + mean  # value and features' gradient as before
        return bag

    def classify(self, bags: Tensor) -> Tensor:
        """Logits of bags ``(batch, ..., features)``. Bags of one picture share one dropout mask: they are compared."""
        mask = self.dropout(bags.new_ones(len(bags), *(1,) * (bags.ndim - 2), bags.shape[-1]))
        # Entries of a vector of length 1 are small: scaled, they meet a linear layer as other features do. Without it
        # the weights take hundreds of steps to grow, and the attention learns nothing until they have.
        scale = bags.shape[-1] ** 0.5 if self.feature_norm == "l2" else 1.0
        return self.classifier(bags * mask * scale)

    # ----------------------------------------------------------------------------------------------------- forward

    def forward(
        self,
        image: Tensor,
        pyramid: PatchSource | None = None,
        return_attention: bool = False,
        num_patches: int | str | None = None,
        draws: int = 0,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of a batch, from the thumbnail's attention and the sampled patches.

        Args:
            image: thumbnails ``(batch, 3, height, width)`` if ``pyramid`` is given, else whole pictures at the finest
                of the magnifications; ``uint8``, or float in [0, 1].
            pyramid: what the patches are read from.
            return_attention: return a mapping instead of logits.
            num_patches: patches of each picture in evaluation, or ``"all"`` (Eq. 1); by default as in training.
            draws: in evaluation, 0 takes the patches of highest attention; R > 0 draws R times and averages.

        Returns:
            logits ``(batch, classes)``, or a mapping with ``logits``; ``attention``, ``log_attention`` and
            ``log_prior`` ``(batch, cells)``; ``cells`` and ``weights`` of the patches ``(batch, k)``; in training by a
            score function rule also ``baseline_logits`` ``(batch, k, classes)`` and ``drawn_log_prob`` ``(batch, k)``;
            after draws also ``spread``, the standard deviation of each probability ``(batch, classes)``.
        """
        if pyramid is None:
            whole = TensorPyramidBatch(image, self.magnifications, self.patch_size)
            image, pyramid = whole.thumbnail(self.thumbnail_size), whole  # type: ignore[arg-type]
        log_attention = self.attend(image, pyramid.grids)
        if self.training:
            draw, output = self._train_step(log_attention, pyramid)
        else:
            draw, output = self._evaluate(log_attention, pyramid, num_patches, draws)
        if not return_attention:
            return output["logits"]
        prior = log_prior(pyramid.grids).to(log_attention)
        attention = {"attention": log_attention.exp(), "log_attention": log_attention, "log_prior": prior}
        return {**output, **attention, "cells": draw.cells, "weights": draw.weights}

    def _train_step(self, log_attention: Tensor, pyramid: PatchSource) -> tuple[Draw, dict[str, Tensor]]:
        log_prob = attention_dropout(log_attention, self.attention_dropout, keep=self.num_patches)
        draw = self._sample(log_prob, self.num_patches)
        features = self._features(pyramid, draw)
        if self.learning_rule == "pathwise":
            bag = self.aggregate(features, pathwise_weights(draw, log_prob))
            return draw, {"logits": self.classify(bag)}
        bag = self.aggregate(features, draw.weights)
        baselines = baseline_bags(features, self.learning_rule)
        logits = self.classify(torch.cat((bag[:, None], baselines), dim=1))
        drawn_log_prob = draw_log_prob(log_prob, draw.cells, in_order=self.learning_rule == "prefix")
        return draw, {"logits": logits[:, 0], "baseline_logits": logits[:, 1:], "drawn_log_prob": drawn_log_prob}

    def _sample(self, log_prob: Tensor, k: int) -> Draw:
        if self.learning_rule == "pathwise":
            return draw_cells(log_prob, k, self.estimator)
        return draw_by_rule(log_prob, k, self.learning_rule)

    def _evaluate(
        self, log_attention: Tensor, pyramid: PatchSource, num_patches: int | str | None, draws: int
    ) -> tuple[Draw, dict[str, Tensor]]:
        k = self.num_patches if num_patches is None else num_patches
        if k != "all" and (isinstance(k, str) or k < 1) or draws < 0:
            raise ValueError(f"num_patches must be a positive number or 'all' and draws not negative: {k!r}, {draws}.")
        if k == "all" or draws == 0:
            draw = all_cells(log_attention) if k == "all" else self._top(log_attention, int(k))
            return draw, {"logits": self.classify(self.aggregate(self._features(pyramid, draw), draw.weights))}
        drawn = [self._sample(log_attention, int(k)) for _ in range(draws)]
        draw = Draw(*(torch.cat(parts, dim=1) for parts in zip(*drawn)))
        features = self._features(pyramid, draw).unflatten(1, (draws, -1))
        bags = (draw.weights.unflatten(1, (draws, -1))[..., None] * features).sum(dim=2)
        prob = self.classify(bags).float().softmax(dim=2)
        spread = prob.std(dim=1, correction=0)
        draw = draw._replace(weights=draw.weights / draws)
        return draw, {"logits": prob.mean(dim=1).clamp_min(torch.finfo(prob.dtype).tiny).log(), "spread": spread}

    def _top(self, log_attention: Tensor, k: int) -> Draw:
        # Eq. 2 sums P f as it is: what was trained so must be evaluated so.
        literal = self.learning_rule == "pathwise" and self.estimator == "paper"
        return top_cells(log_attention, k, normalize=not literal)

    def _features(self, pyramid: PatchSource, draw: Draw) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``, 0 where none was drawn; equal cells are read once."""
        batch, k = draw.cells.shape
        picture = torch.arange(batch, device=draw.cells.device)[:, None].expand(batch, k)
        pairs = torch.stack((picture, draw.cells), dim=2)[draw.drawn]
        pairs, where = torch.unique(pairs, dim=0, return_inverse=True)
        chunks = pairs.cpu().split(len(pairs) if self.training else self.chunk_size)
        patches = (pyramid.read(chunk[:, 0], chunk[:, 1]) for chunk in chunks)
        encoded = torch.cat([self.encode(p.to(draw.cells.device, non_blocking=True)) for p in patches])
        features = encoded.new_zeros(batch, k, encoded.shape[1])
        features[draw.drawn] = encoded[where]
        return features

    # ---------------------------------------------------------------------------------------------------- training

    def load_weights(self, weights: str | None) -> JSMANet:
        """Give both backbones weights of :func:`~monai_jsma.networks.build_backbone`; None leaves them as they are."""
        if weights is not None:
            for backbone, name in zip((self.thumbnail_backbone, self.patch_backbone), self._names):
                backbone.load_state_dict(build_backbone(name, weights).state_dict())
        return self

    def train(self, mode: bool = True) -> JSMANet:
        """As of every module; with ``freeze_norm`` batch normalisation stays in evaluation."""
        super().train(mode)
        if self.freeze_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self
