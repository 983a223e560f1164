# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Whole slides: attention from a slide's thumbnail to its regions, and in the regions as ever.

A region that is drawn is seen through a thumbnail of its own, so the last stage is :class:`JSMANet`, whose weights it
keeps. Regions that are not drawn are not looked at: what a slide costs does not grow with its area.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.data.prediction_dataset import PatchError
from monai_jsma.data.tensor_batch import TensorPyramidBatch
from monai_jsma.geometry import Magnification
from monai_jsma.networks.backbones import (
    Backbone,
    EncoderLike,
    Weights,
    build_backbone,
    hold_frozen,
    select_weights,
    warn_once,
)
from monai_jsma.networks.classifier import BagReader
from monai_jsma.networks.drawing import Draw, is_possible
from monai_jsma.networks.exporting import NoExport
from monai_jsma.networks.finite import check_finite
from monai_jsma.networks.jsma import AttentionNetwork, JSMANet, attention_dropout, log_prior
from monai_jsma.networks.loading import adopt_class_names, keep_settings, read_class_names
from monai_jsma.networks.patch_encoder import PatchEncoder
from monai_jsma.networks.samplers import LeaveOneOut, Sampler, TrainingSampler
from monai_jsma.networks.stain_check import check_stain
from monai_jsma.networks.standardizing import make_map_standardizer, name_norm, standardize_map
from monai_jsma.networks.thumbnail_cache import ThumbnailCache
from monai_jsma.networks.zoom_tree import NodeAttention, RegionSource, ZoomTree

__all__ = ["ZoomNet", "ZoomStage", "tissue_log_prior"]

_log = logging.getLogger(__name__)


class ZoomStage(nn.Module):
    """One stage of a zoom: the thumbnail of a window to a distribution over the regions of the window.

    Args:
        encoder: encoder of the thumbnail, a timm name or a module.
        region_size: height and width of a region, in pixels of the finest magnification.
        thumbnail_size: height and width of the thumbnail of a window. It should give each region at least one place of
            the encoder's feature map.
        weights: weights of an encoder that is given by name, see :func:`~monai_jsma.networks.build_backbone`.
        normalization: normalization of the attention, ``"softmax"`` or ``"sigmoid"``.
        tissue_power: regions without tissue are never drawn; among the others equal logits give each a share
            proportional to its tissue to this power. 0: equal shares.
        thumbnail_norm: None, or ``"standardized"``, see :class:`~monai_jsma.networks.JSMANet`.
        frozen: the encoder does not learn: it stays in evaluation mode.
        freeze_norm: keep batch statistics as they were loaded.
        thumbnail_cache: folder where the maps of a frozen encoder are kept, see
            :class:`~monai_jsma.networks.ThumbnailCache`; of one that learns nothing is.

    Raises:
        ValueError: for a value that is not offered.
    """

    def __init__(
        self,
        encoder: EncoderLike,
        region_size: int,
        thumbnail_size: Sequence[int] = (448, 448),
        *,
        weights: str | None = None,
        normalization: str = "softmax",
        tissue_power: float = 0.0,
        thumbnail_norm: str | None = None,
        frozen: bool = False,
        freeze_norm: bool = False,
        thumbnail_cache: str | Path | None = None,
    ) -> None:
        super().__init__()
        if tissue_power < 0:
            raise ValueError(f"tissue_power {tissue_power} must be at least 0.")
        if not isinstance(region_size, int) or region_size < 1:
            raise ValueError(f"region_size must be a whole number of pixels, but is {region_size!r}.")
        self.region_size = region_size
        self.thumbnail_size = _check_size("thumbnail_size", thumbnail_size)
        self.tissue_power = tissue_power
        self.frozen = frozen
        self.freeze_norm = freeze_norm
        self.thumbnail_cache: ThumbnailCache | None = None
        if thumbnail_cache is not None and frozen:
            self.thumbnail_cache = ThumbnailCache(thumbnail_cache)
        self.encoder = build_backbone(encoder, weights)
        self.standardizer = make_map_standardizer(thumbnail_norm, self.encoder.num_features)
        self.attention = AttentionNetwork(self.encoder.num_features, 1, normalization=normalization)
        self.train()  # a new module is in training mode, but train() was not called: what is frozen must be

    def attend(self, thumbnails: Tensor, source: RegionSource) -> NodeAttention:
        """The distribution of each window over its regions.

        Args:
            thumbnails: ``(windows, 3, height, width)``.
            source: the windows.
        """
        grids = source.region_grids(self.region_size)
        shares = source.tissue_shares(self.region_size)
        prior = tissue_log_prior(shares, self.tissue_power).to(thumbnails.device, torch.float32)
        if len(grids) == 0:
            return NodeAttention(prior, prior, prior)  # batch statistics of nothing would be NaN
        features = self._encode(thumbnails, source)  # (windows, channels, height', width')
        if self.standardizer is not None:
            features = standardize_map(features, self.standardizer)
        self._warn_of_few_places(features, grids)
        log_attention = self.attention(features, [(grid,) for grid in grids])  # (windows, regions)
        log_prob = (log_attention + prior).log_softmax(dim=1)
        return NodeAttention(log_prob, prior, log_prob)

    def _encode(self, thumbnails: Tensor, source: RegionSource) -> Tensor:
        if self.thumbnail_cache is None:
            return self.encoder(thumbnails)
        views: Sequence[bytes | None] | None = getattr(source, "keys", None)
        return self.thumbnail_cache.maps(self.encoder, thumbnails, views)

    def describe(self) -> dict[str, object]:
        """The settings that trained weights need to mean what they were trained for, as JSON can hold them."""
        return {
            "region_size": self.region_size,
            "thumbnail_size": list(self.thumbnail_size),
            "normalization": self.attention.normalization,
            "tissue_power": self.tissue_power,
            "thumbnail_norm": name_norm(self.standardizer),
            **self.encoder.describe("zoom"),
        }

    def _warn_of_few_places(self, features: Tensor, grids: Sequence[tuple[int, int]]) -> None:
        places_down, places_right = features.shape[2:]
        most_rows = max(rows for rows, _ in grids)
        most_cols = max(cols for _, cols in grids)
        if most_rows <= places_down and most_cols <= places_right:
            return
        warn_once(
            f"the zoom looks at {most_rows} x {most_cols} regions through {places_down} x {places_right} places of its "
            "encoder's map, so that neighbors get the same attention: give it a larger thumbnail, an encoder of a "
            "smaller stride, larger regions, or a stage in between."
        )

    def unfreeze(self) -> None:
        """Let the encoder learn from now on."""
        self.frozen = False
        self.thumbnail_cache = None
        self.encoder.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As for every module; but what is frozen stays in evaluation mode."""
        super().train(mode)
        hold_frozen(self, self.encoder if self.frozen else None, freeze_norm=self.freeze_norm)
        return self


class ZoomNet(NoExport):
    """Attention over a whole slide: zoom into regions, then attend to magnifications and places inside them.

    It is called as :class:`~monai_jsma.networks.JSMANet` is. ``image`` is the thumbnail of the slide.

    Attributes:
        zooms_by_prior: in training, draw regions with equal probability and do not teach the zoom, see
            :class:`~monai_jsma.handlers.StagewiseStart`.

    Args:
        region_network: the network of a region, which may have been trained before.
        stages: the stages of the zoom, from the slide downwards; two suffice where a slide has more regions than the
            first has places.
        sampler: how paths are drawn in training: ``LeaveOneOut(k)``, or ``AllPatches()`` for small slides;
            ``LeaveOneOut(16)`` by default. That of ``region_network`` is not used.
        class_names: names of the classes in the order of their labels, as for ``region_network``, whose names are taken
            by default.
        region_weights: file with the weights of a :class:`~monai_jsma.networks.JSMANet` that was trained on regions,
            such as ``model.pt``: :meth:`load_weights` starts from it.

    Raises:
        ValueError: for a region network without a thumbnail encoder, stages of which a later one has larger regions, or
            a sampler that needs the attention of all cells.

    Example::

        >>> from monai_jsma.networks import ConvBackbone
        >>> region = JSMANet(2, (2.0, 1.0), weights=None, thumbnail_encoder=ConvBackbone((8,)), patch_size=32,
        ...                  thumbnail_size=(32, 32), patch_encoder=ConvBackbone((8,)))
        >>> net = ZoomNet(region, [ZoomStage(ConvBackbone((8,)), 128, (64, 64))])
        >>> net.eval()(torch.rand(1, 3, 1024, 512)).shape
        torch.Size([1, 2])
    """

    def __init__(
        self,
        region_network: JSMANet,
        stages: Sequence[ZoomStage],
        *,
        sampler: TrainingSampler | None = None,
        class_names: Sequence[str] | None = None,
        region_weights: str | Path | None = None,
    ) -> None:
        super().__init__()
        if region_network.thumbnail_encoder is None:
            raise ValueError("the region network has no thumbnail encoder: inside a region nothing would be chosen.")
        self.stages = nn.ModuleList(_check_stages(stages))
        self.region_network = region_network
        self.sampler = LeaveOneOut(16) if sampler is None else _check_sampler(sampler)
        self.region_weights = region_weights
        self.zooms_by_prior = False
        names = region_network.class_names if class_names is None else class_names
        keep_settings(self, self._describe(), class_names=names)

    def forward(
        self,
        image: Tensor,
        pyramid: RegionSource | None = None,
        *,
        return_attention: bool = False,
        sampler: Sampler | None = None,
    ) -> Tensor | dict[str, Tensor]:
        """Logits of a batch of slides.

        Args:
            image: thumbnails of the slides ``(batch, 3, height, width)`` if ``pyramid`` is given, otherwise whole
                slides at the finest of the magnifications; ``uint8``, or float in [0, 1].
            pyramid: what regions and patches are read from.
            return_attention: return a dictionary instead of logits.
            sampler: sampler of this call. By default training uses that of the constructor, and evaluation what its
                ``for_evaluation()`` gives.

        Returns:
            logits ``(batch, classes)``, or a dictionary with ``logits``; ``attention`` and ``attention_prior`` of the
            first stage ``(batch, regions)``; ``regions`` of the patches, the number of the region at each stage, row by
            row ``(batch, k, stages)``; ``cells`` in the last region and ``weights`` of the patches ``(batch, k)``;
            ``num_regions``, how many thumbnails of regions were looked at ``(batch,)``; ``log_attention`` and
            ``log_prior`` of the cells of these regions ``(batch, cells)``; and what else the sampler gives, see
            :class:`~monai_jsma.networks.JSMANet`. Paths that are drawn in training add ``divergence`` and
            ``negative_entropy`` of the joint attention ``(batch,)``, as they estimate them. Evaluation adds the regions
            of all stages that were looked at, :class:`~monai_jsma.networks.zoom_tree.SeenRegions`: ``seen_regions``,
            ``seen_probability`` and ``seen_attention``.

        Raises:
            NotFiniteError: if attention or logits of a slide are NaN or infinite; it names the slide.
            PatchError: if regions or patches of some slides cannot be read.
            ValueError: if weights of the network are NaN or infinite, the sampler needs the attention of all cells, or
                a slide has another ``stain_norm`` than the region network.
        """
        sampler = self._choose_sampler(sampler)
        pixels = image
        check_stain(self.region_network.stain_norm, pyramid)
        if pyramid is None:
            pyramid = TensorPyramidBatch(image, self.magnifications, self.patch_size, aligned=self.aligned)
            image = pyramid.thumbnails(self.thumbnail_size)

        eye = _Eye(self, image, pixels=pixels, slides=pyramid)
        tree = ZoomTree(pyramid, self.region_sizes, eye.attend, device=image.device)
        network = self.region_network
        reader = _PathReader(network.patch_encoder, network.classifier, pyramid, tree=tree)
        sample = sampler.sample_tree(tree, reader)
        logits = sample.outputs["logits"]
        check_finite(logits, "logits", network=self, image=pixels, pyramid=pyramid, may_wait=True)
        if not return_attention:
            return logits

        outputs = dict(sample.outputs)
        if self.training and tree.has_paths:
            outputs["divergence"] = tree.estimate_divergence()
            outputs["negative_entropy"] = tree.estimate_negative_entropy()
            outputs["zoom_divergence"] = tree.estimate_zoom_divergence()
            outputs["zoom_negative_entropy"] = tree.estimate_zoom_negative_entropy()
        if not self.training:
            seen = tree.list_seen()
            outputs["seen_regions"] = seen.paths
            outputs["seen_probability"] = seen.probability
            outputs["seen_attention"] = seen.attention
        return {
            **outputs,
            "attention": tree.root.log_prob.exp(),
            "attention_prior": tree.root.log_prior.exp(),
            "log_attention": tree.log_attention,
            "log_prior": tree.log_prior,
            "regions": tree.find_regions(sample.cells),
            "cells": tree.find_cells(sample.cells),
            "weights": sample.weights,
            "num_regions": tree.num_looked_at,
        }

    @property
    def evaluation_sampler(self) -> Sampler:
        """The sampler of an evaluation that is given none."""
        return self.sampler.for_evaluation()

    def _choose_sampler(self, sampler: Sampler | None) -> Sampler:
        if not self.training:
            return self.evaluation_sampler if sampler is None else sampler
        return self.sampler if sampler is None else _check_sampler(sampler)

    def attend(self, stage: int, thumbnails: Tensor, source: RegionSource) -> NodeAttention:
        """The distributions of windows of a stage, over the cells of a region if it is the last.

        Args:
            stage: number of the stage, 0 for the slides.
            thumbnails: thumbnails of the windows ``(windows, 3, height, width)``.
            source: the windows.
        """
        if stage < len(self.stages):
            zoom = self.stages[stage]
            assert isinstance(zoom, ZoomStage)
            attention = zoom.attend(thumbnails, source)
            return _hold_to_prior(attention) if self.training and self.zooms_by_prior else attention
        network = self.region_network
        keeps_maps = network.thumbnail_cache is not None
        views = getattr(source, "keys", None) if keeps_maps else None  # a key for each region is not free
        log_prob = network.attend(thumbnails, source.grids, views=views)
        prior = log_prior(source.grids).to(log_prob)
        log_drawn = attention_dropout(log_prob, network.attention_dropout) if self.training else log_prob
        return NodeAttention(log_prob, prior, log_drawn)

    def find_thumbnail_size(self, stage: int) -> tuple[int, int]:
        """Height and width of the thumbnails of a stage, 0 for the slides."""
        if stage < len(self.stages):
            return self.stages[stage].thumbnail_size  # type: ignore[return-value]
        height, width = self.region_network.thumbnail_size
        return height, width

    @property
    def patch_encoder(self) -> PatchEncoder:
        """f of the region network."""
        return self.region_network.patch_encoder

    @property
    def thumbnail_encoder(self) -> Backbone | None:
        """h of the region network."""
        return self.region_network.thumbnail_encoder

    @property
    def freeze_thumbnail_encoder(self) -> bool:
        """Whether h of the region network, or the encoder of a stage, does not learn."""
        return self.region_network.freeze_thumbnail_encoder or any(stage.frozen for stage in self.stages)

    def unfreeze(self) -> None:
        """Let all encoders learn from now on."""
        self.region_network.unfreeze()
        for stage in self.stages:
            stage.unfreeze()  # type: ignore[operator]

    @property
    def region_sizes(self) -> list[int]:
        """Height and width of the regions of each stage, in pixels of the finest magnification."""
        return [stage.region_size for stage in self.stages]  # type: ignore[misc]

    @property
    def thumbnail_size(self) -> tuple[int, int]:
        """Height and width of the thumbnails of the slides."""
        return self.find_thumbnail_size(0)

    @property
    def magnifications(self) -> tuple[Magnification, ...]:
        """The magnifications of the patches, coarse to fine."""
        return self.region_network.magnifications

    @property
    def patch_size(self) -> int:
        """Height and width of a patch, in pixels of its magnification."""
        return self.region_network.patch_size

    @property
    def aligned(self) -> bool:
        """Whether the patches of a whole image are put side by side."""
        return self.region_network.aligned

    @property
    def task(self) -> str:
        """What is asked of a slide: that of the region network."""
        return self.region_network.task

    @property
    def thresholds(self) -> tuple[float, ...] | None:
        """Of multi-label, the probability from which each class is present; None of other tasks."""
        return self.region_network.thresholds

    @property
    def class_names(self) -> list[str] | None:
        """Names of the classes, from the constructor or the weights that were loaded; None if neither has them."""
        return read_class_names(self)

    def load_weights(self, weights: Weights) -> Self:
        """Give the backbones weights of :func:`~monai_jsma.networks.build_backbone`; None leaves them as they are.

        Those of ``"thumbnail_backbone"`` are given to the encoders of the stages too. Then the region network gets its
        ``region_weights``, if there are any.
        """
        self.region_network.load_weights(weights)
        of_thumbnail = select_weights(weights, "thumbnail_backbone")
        for stage in self.stages:
            if of_thumbnail is not None:
                stage.encoder.load_weights(of_thumbnail)  # type: ignore[operator, union-attr]
        if self.region_weights is not None:
            self.load_region_weights(torch.load(self.region_weights, map_location="cpu", weights_only=True))
        return self

    def load_region_weights(self, weights: Mapping[str, Any]) -> Self:
        """Give the region network the weights of a :class:`~monai_jsma.networks.JSMANet` that was trained on regions.

        An encoder of a stage with the layers of its h starts as that h, which has learned how what matters looks on a
        thumbnail; the log says so.

        Args:
            weights: its state dict, or a checkpoint with the state dict as ``"model"``.

        Raises:
            ValueError: if it was trained with other magnifications, settings or classes.
            RuntimeError: if it has other layers.
        """
        self.region_network.load_state_dict(weights.get("model", weights))
        adopt_class_names(self, self.region_network.class_names)
        thumbnail_encoder = self.region_network.thumbnail_encoder
        assert isinstance(thumbnail_encoder, nn.Module)
        of_regions = thumbnail_encoder.state_dict()
        for number, stage in enumerate(self.stages, start=1):
            encoder = stage.encoder
            assert isinstance(encoder, nn.Module)
            if _list_shapes(encoder.state_dict()) == _list_shapes(of_regions):
                encoder.load_state_dict(of_regions)
                _log.info(f"the encoder of stage {number} starts as that of the thumbnails of regions.")
        return self

    def _describe(self) -> dict[str, object]:
        settings: dict[str, object] = {"num_classes": self.region_network.classifier.out_features}
        for number, stage in enumerate(self.stages):
            assert isinstance(stage, ZoomStage)
            settings[f"zoom_{number}"] = stage.describe()
        return settings


def _list_shapes(state_dict: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in state_dict.items()}


class _Eye:
    """What a tree looks through: it reads thumbnails and attends to them; a fault names the slide.

    Args:
        network: the network.
        image: thumbnails of the slides.
        pixels: images that the network was given.
        slides: the slides.
    """

    def __init__(self, network: ZoomNet, image: Tensor, *, pixels: Tensor, slides: RegionSource) -> None:
        self.network = network
        self.image = image
        self.pixels = pixels
        self.slides = slides

    def attend(self, stage: int, source: RegionSource, images: Tensor) -> NodeAttention:
        """The distributions of windows of a stage, each of slide ``images[i]`` ``(windows,)``."""
        thumbnails = self.image
        if stage > 0:
            size = self.network.find_thumbnail_size(stage)
            with _name_slides(images.tolist()):
                thumbnails = source.thumbnails(size)
            thumbnails = thumbnails.to(self.image.device, non_blocking=True)
        attention = self.network.attend(stage, thumbnails, source)

        total = attention.log_prob.detach().exp().sum(dim=1)
        of_slides = total.new_zeros(len(self.image)).index_add(0, images, total)
        of_slides = of_slides[:, None]  # (batch, 1)
        check_finite(of_slides, "attention", network=self.network, image=self.pixels, pyramid=self.slides)
        return attention


@dataclass(frozen=True, kw_only=True)
class _PathReader(BagReader):
    """A reader of the cells of a tree.

    Args:
        tree: the tree.
    """

    tree: ZoomTree

    def features(self, draw: Draw, *, in_chunks: bool = False) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``."""
        in_chunks = in_chunks or not self.classifier.training
        regions = self.tree.regions
        if regions is None:
            return draw.weights.new_zeros(*draw.cells.shape, self.encoder.num_features)
        numbers = self.tree.find_nodes(draw.cells)
        in_region = draw._replace(cells=self.tree.find_cells(draw.cells))
        with _name_slides(self.tree.slide_of_regions):
            return self.encoder.encode_cells(regions, numbers, in_region, in_chunks=in_chunks)


@contextmanager
def _name_slides(slides: Sequence[int]) -> Iterator[None]:
    """Let errors of windows be of their slides.

    Args:
        slides: number of the slide of each window.
    """
    try:
        yield
    except PatchError as error:
        errors: dict[int, Exception] = {}
        for number, reason in error.errors.items():
            errors.setdefault(slides[number], reason)
        raise PatchError(errors) from error


def tissue_log_prior(shares: Sequence[Any], power: float = 0.0) -> Tensor:
    """The neutral distribution over the regions of some windows.

    Args:
        shares: share of tissue of the regions of each window, arrays ``(regions,)``.
        power: regions that hold tissue have a probability proportional to its share to this power. Where no region
            of a window holds any, all have the same.

    Returns:
        log probabilities, float64 ``(windows, regions)``; -inf for regions without tissue and where padded. Of no
        windows ``(0, 1)``.
    """
    if len(shares) == 0:
        return torch.zeros(0, 1)
    priors = []
    for share in shares:
        tissue = torch.as_tensor(np.asarray(share), dtype=torch.float64)
        if not (tissue > 0).any():
            tissue = torch.ones_like(tissue)
        log_weight = (power * tissue.log()).masked_fill(tissue <= 0, float("-inf"))
        priors.append(log_weight.log_softmax(dim=0))
    return pad_sequence(priors, batch_first=True, padding_value=float("-inf"))


def _hold_to_prior(attention: NodeAttention) -> NodeAttention:
    """The neutral distribution in place of the attention, to which its gradient is 0."""
    possible = is_possible(attention.log_prior)
    learned = attention.log_prob.masked_fill(~possible, 0.0)
    held = attention.log_prior + 0.0 * learned  # in the graph: several processes wait for every gradient
    return NodeAttention(held, attention.log_prior, held)


def _check_size(name: str, size: Sequence[int]) -> tuple[int, int]:
    is_pair = not isinstance(size, str) and len(size) == 2 and all(isinstance(n, int) and n >= 1 for n in size)
    if not is_pair:
        raise ValueError(f"{name} must be height and width, two whole numbers of pixels, but is {size!r}.")
    height, width = size
    return height, width


def _check_stages(stages: Sequence[ZoomStage]) -> list[ZoomStage]:
    if not stages:
        raise ValueError("ZoomNet needs at least one ZoomStage: without a zoom, use the region network itself.")
    sizes = [stage.region_size for stage in stages]
    if sizes != sorted(sizes, reverse=True):
        raise ValueError(f"the regions of a stage lie in those of the stage before, but their sizes are {sizes}.")
    return list(stages)


def _check_sampler(sampler: Sampler) -> TrainingSampler:
    if isinstance(sampler, TrainingSampler) and sampler.goes_down_trees:
        return sampler
    raise ValueError(f"from {sampler!r} the attention over a slide cannot learn: train ZoomNet with LeaveOneOut(k).")
