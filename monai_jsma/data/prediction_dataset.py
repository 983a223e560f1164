# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Data for prediction, which continues when a file fails and resumes when it was stopped.

A file may fail when it is opened or in its thumbnail (both in the data set), or later in a patch (in the network). In
training none of this is used: there a failure ends the run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from monai.data import Dataset, list_data_collate

from monai_jsma._io import Fault
from monai_jsma.slides.errors import SlideError

__all__ = ["BatchError", "NotFiniteError", "PatchError", "PredictionDataset", "collate_readable"]


class BatchError(SlideError):
    """Some images of a batch cannot be predicted, the others can; the message is that of the first.

    Args:
        errors: the first error of each image that has one, by its number in the batch.

    Attributes:
        stage: the step that fails, as the table of failures has it.
    """

    stage: ClassVar[str]

    def __init__(self, errors: Mapping[int, Exception]) -> None:
        super().__init__(str(next(iter(errors.values()))))
        self.errors = dict(errors)


class PatchError(BatchError):
    """Patches of a batch that cannot be read."""

    stage = "patch"


class NotFiniteError(BatchError):
    """Images of a batch for which a network computes NaN or infinite numbers."""

    stage = "network"


class PredictionDataset(Dataset):
    """MONAI's ``Dataset`` for prediction, whose loader needs :func:`collate_readable`.

    An item that cannot be read becomes a ``Fault``. For an item that was predicted before, no file
    is opened: it keeps its entries of the datalist, and has its ``"evidence"`` in place of its image.

    Args:
        data: items of a datalist.
        transform: transform that loads an item.
        recorded: evidence of the items that were predicted before, by their number, as
            :attr:`monai_jsma.handlers.PredictionSaver.recorded` has it.
        regions: items that are predicted in place of ``data``, such as the tissue regions of its slides; None: none.
    """

    def __init__(
        self,
        data: Sequence[Any],
        transform: Callable,
        recorded: Mapping[int, Any] | None = None,
        *,
        regions: Sequence[Any] | None = None,
    ) -> None:
        super().__init__(data if regions is None else regions, transform)
        self.recorded = {} if recorded is None else recorded

    def _transform(self, index: int) -> Any:
        if index in self.recorded:
            item = dict(self.data[index])
            del item["image"]
            return {**item, "evidence": self.recorded[index]}
        try:
            return super()._transform(index)
        except (RuntimeError, OSError, ValueError) as error:  # MONAI's Compose makes a RuntimeError of all
            cause: BaseException | None = error
            while cause is not None and not isinstance(cause, (SlideError, OSError, ValueError)):
                cause = cause.__cause__
            if cause is None:
                raise
            return _make_fault(self.data[index], str(cause))


def _make_fault(item: Mapping[str, Any], reason: str) -> Fault:
    row, col = item.get("location") or (0, 0)
    return Fault(os.fspath(item["image"]), "load", reason, location=(row, col))


def collate_readable(items: Sequence[Any]) -> dict[str, Any]:
    """Collate the items of a :class:`PredictionDataset`.

    Returns:
        the batch of the items that were read; under ``"failures"`` the faults of those that could not be read, and
        under ``"recorded"`` those that were predicted before.
    """
    readable = []
    recorded = []
    failures = []
    for item in items:
        if isinstance(item, Fault):
            failures.append(item)
        elif "evidence" in item:
            recorded.append(item)
        else:
            readable.append(item)
    batch = list_data_collate(readable) if readable else {}
    return {**batch, "failures": failures, "recorded": recorded}
