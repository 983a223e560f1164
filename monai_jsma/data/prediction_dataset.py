# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Predicting goes on when a file fails: what cannot be read is set apart, with the reason, from what can.

A file may fail when it is opened, in its thumbnail (both in the dataset), or later in a patch (in the network). In
training none of this is used: there a failure ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NamedTuple

from monai.data import Dataset, list_data_collate

from monai_jsma.slides.errors import SlideError

__all__ = ["FailedRegion", "PatchError", "PredictionDataset", "collate_readable"]


class FailedRegion(NamedTuple):
    """A region that could not be predicted: its file, row and column at level 0, and why."""

    file: str
    row: int
    col: int
    reason: str

    @classmethod
    def of_item(cls, item: Mapping[str, Any], reason: str) -> FailedRegion:
        """Of an item of a datalist; a whole picture is at (0, 0)."""
        row, col = item.get("location") or (0, 0)
        return cls(os.fspath(item["image"]), row, col, reason)


class PatchError(SlideError):
    """Patches of a batch that cannot be read; the message is that of the first.

    Args:
        errors: the first error of each picture that has one, by its number in the batch.
    """

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        super().__init__(str(next(iter(errors.values()))))
        self.errors = dict(errors)


class PredictionDataset(Dataset):
    """MONAI's ``Dataset`` for prediction: an item that cannot be read is a :class:`FailedRegion`, one to skip is None.

    Its loader needs :func:`collate_readable`.

    Args:
        data: items of a datalist.
        transform: what reads them.
        skip: numbers of the items that were predicted before; their files are not opened.
    """

    def __init__(self, data: Sequence[Any], transform: Callable, skip: Container[int] = ()) -> None:
        super().__init__(data, transform)
        self.skip = skip

    def _transform(self, index: int) -> Any:
        if index in self.skip:
            return None
        try:
            return super()._transform(index)
        except (RuntimeError, OSError, ValueError) as error:  # MONAI's Compose makes a RuntimeError of all
            reason: BaseException | None = error
            while reason is not None and not isinstance(reason, (SlideError, OSError, ValueError)):
                reason = reason.__cause__
            if reason is None:
                raise
            return FailedRegion.of_item(self.data[index], str(reason))


def collate_readable(items: Sequence[Any]) -> dict[str, Any]:
    """The batch of those items of a :class:`PredictionDataset` that could be read, and the others as ``failures``."""
    readable = [item for item in items if isinstance(item, Mapping)]
    return {
        **(list_data_collate(readable) if readable else {}),
        "failures": [item for item in items if isinstance(item, FailedRegion)],
    }
