# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Feature vectors on disk: written once, read by every later run, shared by processes that run at the same time.

Each process appends to a file of its own in the folder, and all files are read. A record is a key (24 bytes), the
checksum of key and vector, and the vector (float32). What a killed process left half written, or a disk damaged, has
no right checksum and counts as absent.
"""

from __future__ import annotations

import uuid
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

__all__ = ["FeatureStore"]


class FeatureStore:
    """Vectors of one length under keys of 24 bytes.

    No file stays open between two calls. The vectors are mapped into memory, which processes share, not loaded.

    Args:
        folder: of the files; it is made when something is written.
        length: of the vectors.
    """

    def __init__(self, folder: str | Path, length: int) -> None:
        self.folder, self.length = Path(folder), length
        self._record = np.dtype([("key", "V24"), ("checksum", "<u4"), ("vector", "<f4", (length,))])
        self._own = self._new_file()
        self._files: dict[str, np.ndarray] = {}  # the records of each file, as many as are known
        self._where: dict[bytes, tuple[str, int]] = {}

    def __reduce__(self) -> tuple:
        return type(self), (self.folder, self.length)  # a copy writes to a file of its own

    def get(self, keys: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
        """The vector of each key ``(n, length)``, and which keys have one: bool ``(n,)``."""
        if any(key is not None and key not in self._where for key in keys):
            self._look()
        vectors, found = np.zeros((len(keys), self.length), np.float32), np.zeros(len(keys), bool)
        for i, key in enumerate(keys):
            if key in self._where:
                name, row = self._where[key]
                vectors[i], found[i] = self._files[name]["vector"][row], True
        return vectors, found

    def add(self, vectors: Mapping[bytes, np.ndarray]) -> None:
        """Write vectors under their keys.

        Raises:
            OSError: if they cannot be written.
        """
        records = np.empty(len(vectors), self._record)
        for record, (key, vector) in zip(records, vectors.items()):
            record["key"], record["vector"] = np.void(key), vector
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

    def _look(self) -> None:
        """Take in what was written since the last look, by this process and by others."""
        for path in self.folder.glob("*.features"):
            known, count = len(self._files.get(path.name, ())), path.stat().st_size // self._record.itemsize
            if count <= known:
                continue
            records = self._files[path.name] = np.asarray(np.memmap(path, self._record, "r", shape=(count,)))
            for row in range(known, count):
                if records[row]["checksum"] == _checksum(records[row]):
                    self._where[records[row]["key"].tobytes()] = path.name, row


def _checksum(record: np.void) -> int:
    return zlib.crc32(record["vector"], zlib.crc32(record["key"].tobytes()))
