# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers that show where the network looked: in TensorBoard, and as one PNG per image (paper, Section 4.3.4).

Both take the evidence of the engine's last batch and read the sampled patches again from the pyramids. They work on
trainers and evaluators.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler

from monai_jsma._io import name_region
from monai_jsma.networks import read_class_names
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.visualize import (
    attention_image,
    overview_figure,
    patch_boxes_image,
    patch_strip_image,
    save_figure,
)

__all__ = ["AttentionImageHandler", "AttentionImageSaver", "picture_name"]


class AttentionImageHandler(TensorBoardHandler):
    """Writes the attention and the sampled patches of the last batch's first images to TensorBoard.

    For image ``i`` these are ``attention/<magnification>/i``, ``patches/boxes/i`` and ``patches/strip/i``.

    Args:
        summary_writer: writer that is shared with other handlers; by default the handler makes one.
        log_dir: folder of the handler's own writer.
        interval: number of epochs from one writing to the next.
        max_pictures: maximum number of images of a batch to show.
        max_patches: maximum number of patches of an image to show, those of highest weight.
        tag_prefix: prefix of every tag, where a trainer and an evaluator share a writer.
        global_epoch_transform: function that gives the step from the engine's epoch, if that is not the trainer's.
    """

    def __init__(
        self,
        summary_writer: Any = None,
        log_dir: str = "./runs",
        interval: int = 1,
        *,
        max_pictures: int = 2,
        max_patches: int = 16,
        tag_prefix: str = "",
        global_epoch_transform: Callable[[int], int] = lambda epoch: epoch,
    ) -> None:
        super().__init__(summary_writer=summary_writer, log_dir=log_dir)
        self.interval = interval
        self.max_pictures = max_pictures
        self.max_patches = max_patches
        self.tag_prefix = tag_prefix
        self.global_epoch_transform = global_epoch_transform

    def attach(self, engine: Engine) -> None:
        """Write on completed epochs of ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Write the first images of the engine's last batch."""
        step = self.global_epoch_transform(engine.state.epoch)
        batch = collect_evidence(engine)
        for i, evidence in enumerate(batch[: self.max_pictures]):
            images = self._draw(evidence)
            for name, image in images.items():
                tag = f"{self.tag_prefix}{name}/{i}"
                self._writer.add_image(tag, image, step, dataformats="HWC")
        self._writer.flush()

    def _draw(self, evidence: Evidence) -> dict[str, np.ndarray]:
        if evidence.thumbnail is None:  # a record's: it was drawn when it was predicted
            return {}
        images = {}
        for level, name in enumerate(evidence.geometry.names):
            images[f"attention/{name}"] = attention_image(evidence, level)
        images["patches/boxes"] = patch_boxes_image(evidence, max_boxes=self.max_patches)
        images["patches/strip"] = patch_strip_image(evidence, max_patches=self.max_patches)
        return images


class AttentionImageSaver:
    """Writes one PNG for each image of an evaluation: boxes, the attention of each magnification, the patches.

    A file is complete or absent. Its name (:func:`picture_name`) does not depend on order, batches or processes, so
    another evaluation replaces it.

    Args:
        output_dir: folder of the files; it is made if needed.
        class_names: names of the classes, for the title, which must be those of the network's weights; by default
            these, and the indices if there are none.
        max_pictures: maximum number of images of an evaluation to write, in each process; by default all.
        max_patches: maximum number of patches of an image to show, those of highest weight.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        *,
        max_pictures: int | None = None,
        max_patches: int = 16,
    ) -> None:
        self.output_dir = Path(output_dir)
        self.class_names = class_names
        self.max_pictures = max_pictures
        self.max_patches = max_patches
        self._count = 0
        self._names: Sequence[str] | None = class_names

    def attach(self, engine: Engine) -> None:
        """Write the images of every batch of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self) -> None:
        self._count = 0

    def __call__(self, engine: Engine) -> None:
        """Write the images of the engine's last batch."""
        if self._count == self.max_pictures:
            return
        self._names = read_class_names(getattr(engine, "network", None), self.class_names)
        batch = collect_evidence(engine)
        # Evidence of a record has been drawn before its run was stopped and resumed; it counts, and comes first.
        batch.sort(key=lambda evidence: evidence.thumbnail is not None)
        for evidence in batch:
            if self._count == self.max_pictures:
                return
            if evidence.thumbnail is not None:
                self._save(evidence)
            self._count += 1

    def _save(self, evidence: Evidence) -> None:
        title = self._make_title(evidence)
        figure = overview_figure(evidence, title=title, max_patches=self.max_patches)
        path = self.output_dir / f"{picture_name(evidence)}.png"
        save_figure(figure, path, dpi="figure")

    def _make_title(self, evidence: Evidence) -> str:
        """File, location of a region, and the classes that are known."""
        parts = [Path(evidence.file).name]
        if any(evidence.location):
            row, col = evidence.location
            parts.append(f"at row {row}, column {col}")
        if evidence.label is not None:
            true_name = self._class_name(evidence.label, evidence.file)
            parts.append(f"true {true_name}")
        if evidence.prediction is not None:
            predicted_name = self._class_name(evidence.prediction, evidence.file)
            parts.append(f"predicted {predicted_name}")
        return ", ".join(parts)

    def _class_name(self, index: int, file: str) -> str:
        if self._names is None:
            return f"class {index}"
        if not 0 <= index < len(self._names):
            raise ValueError(f"{file}: class {index} has no name among {list(self._names)}.")
        return self._names[index]


def picture_name(evidence: Evidence) -> str:
    """A file name without suffix for an image: its stem, the location of a region, and six hex digits of its path.

    Raises:
        ValueError: if the image has no file name.
    """
    if not evidence.file:
        raise ValueError(
            "an image without a file name cannot be saved: give its pyramid a 'path' or its metadata 'filename_or_obj'."
        )
    return name_region(evidence.file, evidence.location, evidence.geometry.size)
