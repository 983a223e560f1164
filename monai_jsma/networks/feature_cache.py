# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a frozen f made of a patch is kept, so that no patch is read and encoded twice, in this run or the next.

A feature is found again by all that it was computed from: the file as it is now, the region, the grids and the
orientation (:attr:`monai_jsma.data.Pyramid.key`), the cell, and the encoder: its layers, weights and precision. Each
encoder has a folder of its own, named after its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from monai_jsma.data.feature_store import FeatureStore
from monai_jsma.networks.backbones import Backbone

__all__ = ["FeatureCache", "encoder_hash"]


class FeatureCache:
    """Features of patches, kept in a folder.

    Args:
        folder: it may hold those of other encoders and data too, and be in use by other processes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._state: object = None
        self._remembered: list[Tensor] = []
        self._store: FeatureStore | None = None

    def features(
        self, encoder: Backbone, norm: str | None, source: object, pairs: Tensor, encode: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Features of patches ``(n, features)`` on the host: those that are known, and the others by ``encode``.

        Args:
            encoder: f.
            norm: the ``feature_norm`` of its features.
            source: what the patches are read from. If it has no ``keys`` as :class:`~monai_jsma.data.PyramidBatch` has
                them, nothing is kept.
            pairs: number of the picture and cell of each patch ``(n, 2)``, on the host.
            encode: gives the features of such pairs.
        """
        views: Sequence[bytes | None] | None = getattr(source, "keys", None)
        if views is None:
            return encode(pairs).cpu()
        keys = [
            None if (view := views[picture]) is None else view + cell.to_bytes(8, "little")
            for picture, cell in pairs.tolist()
        ]
        store = self._store_of(encoder, norm)
        vectors, found = store.get(keys)
        (missing,) = (~found).nonzero()
        if len(missing):
            vectors[missing] = encode(pairs[missing]).cpu().numpy()
            if new := {key: vectors[i] for i in missing if (key := keys[i]) is not None}:
                store.add(new)
        return torch.from_numpy(vectors)

    def _store_of(self, encoder: Backbone, norm: str | None) -> FeatureStore:
        """The features of this encoder, as it is now: hashed again when its layers or tensors are not those it had.

        PyTorch counts what is written to a tensor, unless it is written through ``.data``.
        """
        tensors = [*encoder.parameters(), *encoder.buffers()]
        kind = tensors[0].device.type
        precision = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else tensors[0].dtype
        state = [*encoder.modules()], [(t.data_ptr(), t._version) for t in tensors], precision, norm
        if self._store is None or state != self._state:
            self._state = state
            self._remembered = [t.detach() for t in tensors]  # so that no other tensor can take their place in memory
            self._store = FeatureStore(self.folder / encoder_hash(encoder, precision, norm), encoder.num_features)
        return self._store


def encoder_hash(encoder: Backbone, precision: torch.dtype, norm: str | None) -> str:
    """Tells an encoder from others: 32 digits of its classes, what it prints, its weights, and these settings."""
    layers = [type(module) for module in encoder.modules()]
    digest = hashlib.sha256(repr((encoder, layers, precision, norm)).encode())
    for name, tensor in [*encoder.named_parameters(), *encoder.named_buffers()]:
        digest.update(repr((name, tensor.dtype, tensor.shape)).encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]
