# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The patch encoder f: patches are read from a pyramid, encoded, each once, and kept where f does not learn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from monai_jsma.networks.backbones import EncoderLike, build_backbone, hold_frozen
from monai_jsma.networks.drawing import Draw
from monai_jsma.networks.feature_cache import FeatureCache
from monai_jsma.networks.standardizing import FeatureStandardizer, unit_length

__all__ = ["PatchEncoder", "PatchSource"]


_FEATURE_NORMS = (None, "l2", "standardized")


class PatchSource(Protocol):
    """What a network reads patches from: a :class:`~monai_jsma.data.PyramidBatch` or anything alike."""

    @property
    def grids(self) -> Sequence[tuple[tuple[int, int], ...]]:
        """For each image the rows and columns of every magnification."""

    def read(self, pictures: Tensor, cells: Tensor) -> Tensor:
        """Patches of ``cells[i]`` of image ``pictures[i]``: ``(n, 3, patch, patch)``."""


class PatchEncoder(nn.Module):
    """f: one vector for each patch.

    Args:
        backbone: timm name or module, see :func:`~monai_jsma.networks.build_backbone`.
        weights: weights of a backbone that is given by name; None for random ones.
        head: include the layers of a timm model between its last map and its classifier, see
            :func:`~monai_jsma.networks.build_backbone`.
        feature_norm: None; ``"l2"``, length 1, so that no patch can outweigh another by the length of its features; or
            ``"standardized"``, mean 0 and variance 1 in each channel over the patches of the training, then length 1
            (see :class:`~monai_jsma.networks.FeatureStandardizer`): for an f that was trained on other images.
        frozen: f does not learn: it stays in evaluation mode, and nothing is kept for its gradient.
        freeze_norm: keep batch statistics as they were loaded. In training they would follow what is being sampled.
        feature_cache: folder where the features of a frozen f are kept, see :class:`~monai_jsma.networks.FeatureCache`.
        chunk_size: number of patches that are read and encoded at once where there may be many.

    Raises:
        ValueError: for a value that is not offered.

    Example::

        >>> encoder = PatchEncoder("test_resnet", feature_norm="l2")
        >>> encoder(torch.rand(5, 3, 96, 96)).shape
        torch.Size([5, 96])
    """

    def __init__(
        self,
        backbone: EncoderLike,
        *,
        weights: str | None = None,
        head: bool = False,
        feature_norm: str | None = None,
        frozen: bool = False,
        freeze_norm: bool = False,
        feature_cache: str | Path | None = None,
        chunk_size: int = 64,
    ) -> None:
        super().__init__()
        if feature_norm not in _FEATURE_NORMS:
            raise ValueError(f"unknown feature_norm '{feature_norm}'; choose one of None, l2, standardized.")
        if chunk_size < 1:
            raise ValueError(f"chunk_size {chunk_size} must be at least 1.")
        if feature_cache is not None and not frozen:
            raise ValueError(
                f"feature_cache '{feature_cache}' keeps what does not change, but f is being trained: freeze f "
                "(PatchEncoder(frozen=True), or 'freeze_patch_backbone' of a bundle), or set feature_cache to None."
            )
        self.backbone = build_backbone(backbone, weights, pooled=True, head=head)
        self.feature_norm = feature_norm
        self.standardizer: FeatureStandardizer | None = None
        if feature_norm == "standardized":
            self.standardizer = FeatureStandardizer(self.backbone.num_features)
        self.frozen = frozen
        self.freeze_norm = freeze_norm
        self.feature_cache = None if feature_cache is None else FeatureCache(feature_cache)
        self.chunk_size = chunk_size
        self.train()  # a new module is in training mode, but train() was not called: what is frozen must be

    @property
    def num_features(self) -> int:
        """Length of the features of a patch."""
        return self.backbone.num_features

    @property
    def has_unit_length(self) -> bool:
        """Whether all features have length 1, so that what unread patches can change is bounded."""
        return self.feature_norm is not None

    @property
    def non_negative(self) -> bool:
        """Whether no feature can be negative, as far as it shows. Standardized ones are, below their mean."""
        return self.standardizer is None and self.backbone.non_negative

    @property
    def scale(self) -> float:
        """Factor of the features before a linear layer.

        Entries of a vector of length 1 are small. Unscaled, a layer's weights take hundreds of steps to grow, and the
        attention learns nothing until they have.
        """
        return self.num_features**0.5 if self.has_unit_length else 1.0

    def forward(self, patches: Tensor) -> Tensor:
        """Features ``(n, features)`` of patches ``(n, 3, patch, patch)``: the map's mean, normalized."""
        return self.normalize(self.pool(patches))

    def pool(self, patches: Tensor) -> Tensor:
        """The mean of the backbone's map ``(n, features)``, which depends on each patch alone, float32."""
        return self.backbone(patches).mean(dim=(2, 3)).float()

    def normalize(self, features: Tensor) -> Tensor:
        """Features ``(n, features)`` as ``feature_norm`` says; in training, statistics take them in."""
        if not self.has_unit_length:
            return features
        if self.standardizer is not None:
            features = self.standardizer(features)
        return unit_length(features)

    def encode_draw(self, pyramid: PatchSource, draw: Draw, *, in_chunks: bool) -> Tensor:
        """Features of the drawn patches ``(batch, k, features)``, 0 where none was drawn; equal cells are read once.

        Args:
            pyramid: what the patches are read from.
            draw: cells ``(batch, k)``.
            in_chunks: encode ``chunk_size`` patches at a time. Then the activations of one chunk are in memory, not of
                all: for the gradient they are computed again (batch statistics, unless frozen, move a second time).
        """
        image = torch.arange(len(draw.cells), device=draw.cells.device)
        images = image[:, None].expand_as(draw.cells)
        return self.encode_cells(pyramid, images, draw, in_chunks=in_chunks)

    def encode_cells(self, pyramid: PatchSource, images: Tensor, draw: Draw, *, in_chunks: bool) -> Tensor:
        """As :meth:`encode_draw`, where each cell may be one of any image.

        Args:
            pyramid: what the patches are read from.
            images: number of the image of each cell ``(batch, k)``.
            draw: cells ``(batch, k)``.
            in_chunks: encode ``chunk_size`` patches at a time.
        """
        batch, k = draw.cells.shape
        device = draw.cells.device
        image_and_cell = torch.stack((images, draw.cells), dim=2)  # (batch, k, 2)
        drawn = image_and_cell[draw.drawn]  # (n, 2)
        if len(drawn) == 0:
            nothing = draw.weights.new_zeros(0, self.num_features)
            self.normalize(nothing)  # other processes may have drawn some, and wait for the statistics of this one
            return draw.weights.new_zeros(batch, k, self.num_features)
        pairs, places = torch.unique(drawn, dim=0, return_inverse=True)

        size = self.chunk_size if in_chunks else len(pairs)
        chunks = pairs.cpu().split(size)
        encode: Callable[[Tensor], Tensor] = self.pool
        if len(chunks) > 1 and torch.is_grad_enabled():
            encode = self._pool_again_for_the_gradient
        parts = [self._encode_pairs(pyramid, chunk, encode, device) for chunk in chunks]
        encoded = self.normalize(torch.cat(parts))  # (different pairs, features)

        features = encoded.new_zeros(batch, k, encoded.shape[1])
        features[draw.drawn] = encoded[places]
        return features

    def read_features(self, pyramid: PatchSource, cells: Tensor) -> Tensor:
        """Features ``(n, features)`` of cells ``(n,)`` of a single image, before they are normalized; no gradient."""
        pairs = torch.stack((torch.zeros_like(cells), cells), dim=1).cpu()
        device = next(iter(self.backbone.buffers())).device
        with torch.no_grad():
            parts = [self._encode_pairs(pyramid, chunk, self.pool, device) for chunk in pairs.split(self.chunk_size)]
        return torch.cat(parts)

    def _pool_again_for_the_gradient(self, patches: Tensor) -> Tensor:
        return checkpoint(self.pool, patches, use_reentrant=False)

    def _encode_pairs(
        self, pyramid: PatchSource, pairs: Tensor, encode: Callable[[Tensor], Tensor], device: torch.device
    ) -> Tensor:
        """Features ``(n, features)`` of pairs of image and cell ``(n, 2)``, which are on the host."""

        def read_and_encode(pairs: Tensor) -> Tensor:
            patches = pyramid.read(pairs[:, 0], pairs[:, 1])
            return encode(patches.to(device, non_blocking=True))

        if self.feature_cache is None:
            return read_and_encode(pairs)
        known = self.feature_cache.features(
            self.backbone,
            _patch_keys(pyramid, pairs),
            length=self.num_features,
            encode=lambda missing: read_and_encode(pairs[missing]),
        )
        return known.to(device)

    def describe(self) -> dict[str, object]:
        """The settings that trained weights need to mean what they were trained for, as JSON can hold them."""
        return {
            "feature_norm": str(self.feature_norm),
            "patch_head": self.backbone.head,
            **self.backbone.describe("patch"),
        }

    def load_weights(self, weights: str | None) -> Self:
        """Give the backbone weights of :func:`~monai_jsma.networks.build_backbone`; None leaves them as they are."""
        if weights is not None:
            self.backbone.load_weights(weights)
        return self

    def unfreeze(self) -> None:
        """Let f learn from now on. Its features change then, and are no longer kept."""
        self.frozen = False
        self.feature_cache = None
        self.backbone.requires_grad_(True)
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """As for every module; but batch statistics that are frozen, or all of a frozen f, stay in evaluation mode."""
        super().train(mode)
        hold_frozen(self, self.backbone if self.frozen else None, freeze_norm=self.freeze_norm)
        return self


def _patch_keys(source: object, pairs: Tensor) -> list[bytes | None]:
    """Keys of patches ``(n, 2)`` of images and cells; None where the source has none as a ``PyramidBatch`` has them."""
    views: Sequence[bytes | None] | None = getattr(source, "keys", None)
    if views is None:
        return [None] * len(pairs)
    keys: list[bytes | None] = []
    for image, cell in pairs.tolist():
        view = views[image]
        keys.append(None if view is None else view + cell.to_bytes(8, "little"))
    return keys
