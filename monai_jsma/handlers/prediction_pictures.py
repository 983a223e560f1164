# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The pictures of a prediction, for :class:`~monai_jsma.handlers.PredictionSaver`."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path

from monai_jsma.predictions.records import PredictionRecord
from monai_jsma.visualize import write_run_pictures

__all__ = ["PredictionPictures"]

_logger = logging.getLogger(__name__)


class PredictionPictures:
    """Draws a map of each slide, and the regions that tell most: wrong, most certain and most uncertain ones.

    They are drawn from the records when the run is complete, so that a run that was killed and resumed, or that several
    processes share, has the same pictures. What cannot be drawn is told in the log.

    Args:
        output_dir: folder of the files, see :func:`~monai_jsma.visualize.write_run_pictures`.
        max_pictures: how many regions to draw at most; None: all; 0: nothing is drawn.
    """

    def __init__(self, output_dir: str | os.PathLike, max_pictures: int | None = 12) -> None:
        self.output_dir = Path(output_dir)
        self.max_pictures = max_pictures

    def __call__(self, records: Sequence[PredictionRecord]) -> None:
        """Draw the pictures of a run.

        Args:
            records: all of its records.
        """
        for fault in write_run_pictures(records, self.output_dir, max_pictures=self.max_pictures):
            _logger.warning("Not drawn: %s", fault)
