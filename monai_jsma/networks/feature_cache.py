# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a frozen encoder gives is kept on disk: nothing is read and encoded twice, in this run or the next.

The feature of a patch is found again by all that it was computed from: the file as it is now, the region, the grids and
the orientation (:attr:`monai_jsma.data.Pyramid.key`), the cell, and the encoder: its layers, weights and precision.
Each encoder has a folder of its own, named after its hash. What is kept is what the backbone gives, before the features
are normalized: the statistics of the normalization may move while the backbone stays as it is.

Processes that run at the same time share a folder: each appends to a file of its own, and all files are read. A record
is a key (24 bytes), the checksum of key and vector, and the vector (float32). What a killed process left half written,
or a disk damaged, has no right checksum and counts as absent.
"""

from __future__ import annotations

import hashlib
import uuid
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from monai_jsma.networks.backbones import Backbone

__all__ = ["FeatureCache", "FeatureStore", "encoder_hash"]


class FeatureCache:
    """Features of a frozen encoder, kept in a folder.

    Args:
        folder: folder of the features; it may hold those of other encoders and data too, and be in use by other
            processes.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._state: object = None
        self._hashed_tensors: list[Tensor] = []
        self._hash = ""
        self._stores: dict[str, FeatureStore] = {}

    def features(
        self,
        encoder: Backbone,
        keys: Sequence[bytes | None],
        *,
        length: int,
        encode: Callable[[Tensor], Tensor],
        kind: str = "",
    ) -> Tensor:
        """Features ``(n, length)`` on the host: those that are known, and the others by ``encode``.

        Args:
            encoder: backbone that gives them.
            keys: for each feature 24 bytes that tell it from all others of this encoder; None: it is not kept.
            length: length of a feature.
            encode: function that gives the features of the entries at some positions, int64 ``(m,)``.
            kind: what else than the encoder tells features of this kind from others, as a part of a file name.
        """
        if all(key is None for key in keys):
            return encode(torch.arange(len(keys))).cpu()
        store = self._find_store(encoder, kind, length)
        vectors, known = store.get(keys)
        missing = np.flatnonzero(~known)
        if not len(missing):
            return torch.from_numpy(vectors)

        encoded = encode(torch.from_numpy(missing))
        vectors[missing] = encoded.cpu().numpy()
        new = {}
        for i in missing.tolist():
            key = keys[i]
            if key is not None and np.isfinite(vectors[i]).all():  # NaN of mixed precision is not kept
                new[key] = vectors[i]
        if new:
            store.add(new)
        return torch.from_numpy(vectors)

    def add(self, encoder: Backbone, keys: Sequence[bytes], vectors: np.ndarray) -> None:
        """Keep features ``(n, length)`` that were made elsewhere as if ``encoder`` had made them.

        Args:
            encoder: backbone in whose place they stand.
            keys: for each feature 24 bytes; those that are kept already stay.
            vectors: the features.
        """
        store = self._find_store(encoder, "", vectors.shape[1])
        _, known = store.get(keys)
        new = {key: vector for key, vector, is_known in zip(keys, vectors, known) if not is_known}
        if new:
            store.add(new)

    def _find_store(self, encoder: Backbone, kind: str, length: int) -> FeatureStore:
        """The features of this encoder, as it is now: hashed again when its layers or tensors are not those it had.

        PyTorch counts what is written to a tensor, unless it is written through ``.data``.
        """
        tensors = [*encoder.parameters(), *encoder.buffers()]
        device = tensors[0].device.type
        precision = tensors[0].dtype
        if torch.is_autocast_enabled(device):
            precision = torch.get_autocast_dtype(device)
        layers = list(encoder.modules())
        versions = [(tensor.data_ptr(), tensor._version) for tensor in tensors]

        state = layers, versions, precision
        if state != self._state:
            self._state = state
            self._hashed_tensors = [t.detach() for t in tensors]  # so that no other can take their place in memory
            self._hash = encoder_hash(encoder, precision)
            self._stores = {}
        if kind not in self._stores:
            self._stores[kind] = FeatureStore(self.folder / f"{self._hash}{kind}", length)
        return self._stores[kind]


class FeatureStore:
    """Vectors of one length under keys of 24 bytes.

    No file stays open between two calls. The vectors are mapped into memory, which processes share, not loaded.

    Args:
        folder: folder of the files; it is created when something is written.
        length: length of the vectors.
    """

    def __init__(self, folder: str | Path, length: int) -> None:
        self.folder = Path(folder)
        self.length = length
        fields = [
            ("key", "V24"),
            ("checksum", "<u4"),
            ("vector", "<f4", (length,)),
        ]
        self._record = np.dtype(fields)
        self._own = self._new_file()
        self._files: dict[str, np.ndarray] = {}  # the records of each file, as many as are known
        self._places: dict[bytes, tuple[str, int]] = {}  # file and row of each key

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.length)  # a copy writes to a file of its own

    def get(self, keys: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
        """The vector of each key ``(n, length)``, and which keys have one: bool ``(n,)``."""
        if any(key is not None and key not in self._places for key in keys):
            self._read_new_records()
        count = len(keys)
        vectors = np.zeros((count, self.length), np.float32)
        known = np.zeros(count, bool)
        for i, key in enumerate(keys):
            place = None if key is None else self._places.get(key)
            if place is None:
                continue
            name, row = place
            vectors[i] = self._files[name]["vector"][row]
            known[i] = np.isfinite(vectors[i]).all()  # NaN of an earlier version is none
        return vectors, known

    def add(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Write vectors under their keys.

        Raises:
            OSError: if they cannot be written.
        """
        records = np.empty(len(vectors), self._record)
        for record, (key, vector) in zip(records, vectors.items()):
            record["key"] = np.void(key)
            record["vector"] = vector
            record["checksum"] = _checksum(record)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with open(self._own, "ab") as file:
                file.write(records.tobytes())
        except OSError as error:
            self._own = self._new_file()  # the old one may end in a part of a record
            raise OSError(f"{self.folder}: features cannot be written ({error}); free some space.") from error

    def _new_file(self) -> Path:
        return self.folder / f"{uuid.uuid4().hex}.features"

    def _read_new_records(self) -> None:
        """Take in what was written since the last call, by this process and by others."""
        for path in self.folder.glob("*.features"):
            known = len(self._files.get(path.name, ()))
            count = path.stat().st_size // self._record.itemsize
            if count <= known:
                continue
            mapped = np.memmap(path, self._record, "r", shape=(count,))
            records = np.asarray(mapped)
            self._files[path.name] = records
            for row in range(known, count):
                record = records[row]
                if record["checksum"] != _checksum(record):
                    continue
                key = record["key"].tobytes()
                self._places[key] = path.name, row


def encoder_hash(encoder: Backbone, precision: torch.dtype) -> str:
    """32 digits that tell an encoder from others: of its classes, what it prints, its weights, and its precision."""
    layers = [type(module) for module in encoder.modules()]
    settings = repr((encoder, layers, precision))
    digest = hashlib.sha256(settings.encode())
    named_tensors = [*encoder.named_parameters(), *encoder.named_buffers()]
    for name, tensor in named_tensors:
        kind = repr((name, tensor.dtype, tensor.shape))
        digest.update(kind.encode())
        numbers = tensor.detach().cpu().contiguous().reshape(-1)
        digest.update(numbers.view(torch.uint8).numpy().data)
    return digest.hexdigest()[:32]


def _checksum(record: np.void) -> int:
    of_key = zlib.crc32(record["key"].tobytes())
    return zlib.crc32(record["vector"], of_key)
