# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The maps that a frozen h gives of thumbnails are kept beside the features of a frozen f."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from monai_jsma.networks.backbones import Backbone
from monai_jsma.networks.feature_cache import FeatureCache

__all__ = ["ThumbnailCache"]


class ThumbnailCache:
    """Feature maps of thumbnails, kept in a folder, see :class:`~monai_jsma.networks.FeatureCache`.

    A map is found again by the pixels of its thumbnail, whatever was done to them, and by the encoder.

    Args:
        folder: folder of the maps; it may hold features of patches too.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._cache = FeatureCache(folder)
        self._map_shapes: dict[tuple[int, ...], torch.Size] = {}  # by the shape of the thumbnail

    def maps(self, encoder: Backbone, thumbnails: Tensor, views: Sequence[bytes | None] | None) -> Tensor:
        """Maps ``(batch, channels, height', width')`` on the device: those that are known, and the others by h.

        Args:
            encoder: a frozen h.
            thumbnails: ``(batch, 3, height, width)``.
            views: the keys of a :class:`~monai_jsma.data.PyramidBatch`. What has none never comes again, such as a
                random stain, and is not kept; None: nothing is.
        """
        if views is None or all(view is None for view in views):
            return encoder(thumbnails)
        size = thumbnails.shape[1:]
        if size not in self._map_shapes:
            self._map_shapes[size] = encoder(thumbnails[:1]).shape[1:]
        map_shape = self._map_shapes[size]

        keys = [None if view is None else _hash_pixels(pixels) for view, pixels in zip(views, thumbnails)]
        kept = self._cache.features(
            encoder,
            keys,
            length=map_shape.numel(),
            encode=lambda missing: encoder(thumbnails[missing.to(thumbnails.device)]).float().flatten(1),
            kind="_" + "x".join(str(length) for length in map_shape),
        )
        return kept.unflatten(1, map_shape).to(thumbnails.device)


def _hash_pixels(pixels: Tensor) -> bytes:
    """24 bytes that tell pixels, their type and their shape from others."""
    digest = hashlib.blake2b(repr((pixels.dtype, pixels.shape)).encode(), digest_size=24)
    digest.update(pixels.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.digest()
