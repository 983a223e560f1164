# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers that show where the network looked: in TensorBoard, and as one PNG a picture (paper, Section 4.3.4).

Both take the thumbnail, the attention and the drawn cells from :func:`~monai_jsma.predictions.picture_results`, and
read the sampled patches again from the pyramids. They work on trainers and evaluators.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler

from monai_jsma._io import region_name
from monai_jsma.predictions.from_engine import PictureResult, picture_results
from monai_jsma.visualize import (
    attention_image,
    drawn_patches,
    overview_figure,
    patch_boxes_image,
    patch_strip_image,
    save_figure,
)

__all__ = ["AttentionImageHandler", "AttentionImageSaver", "picture_name"]


class AttentionImageHandler(TensorBoardHandler):
    """Writes the attention and the sampled patches of the last batch's first pictures to TensorBoard.

    For picture ``i`` these are ``attention/<magnification>/i``, ``patches/boxes/i`` and ``patches/strip/i``.

    Args:
        summary_writer: a writer shared with other handlers; by default an own one.
        log_dir: folder of the own writer.
        interval: write every so many epochs.
        max_pictures: pictures of a batch to show at most.
        max_patches: patches of a picture to show at most, those of greatest weight.
        tag_prefix: put before every tag, where a trainer and an evaluator share a writer.
        global_epoch_transform: gives the step from the engine's epoch, where that is not the trainer's.
    """

    def __init__(
        self,
        summary_writer: Any = None,
        log_dir: str = "./runs",
        interval: int = 1,
        max_pictures: int = 2,
        max_patches: int = 16,
        tag_prefix: str = "",
        global_epoch_transform: Callable[[int], int] = lambda epoch: epoch,
    ) -> None:
        super().__init__(summary_writer=summary_writer, log_dir=log_dir)
        self.interval, self.max_pictures, self.max_patches = interval, max_pictures, max_patches
        self.tag_prefix, self.global_epoch_transform = tag_prefix, global_epoch_transform

    def attach(self, engine: Engine) -> None:
        """Write on completed epochs of ``engine``."""
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def __call__(self, engine: Engine) -> None:
        """Write the pictures of the engine's last batch."""
        step = self.global_epoch_transform(engine.state.epoch)
        for i, result in enumerate(picture_results(engine)[: self.max_pictures]):
            for name, image in self._images(result).items():
                self._writer.add_image(f"{self.tag_prefix}{name}/{i}", image, step, dataformats="HWC")
        self._writer.flush()

    def _images(self, result: PictureResult) -> dict[str, np.ndarray]:
        geometry, thumbnail, frame = result.pyramid.geometry, result.thumbnail, result.frame
        images = {
            f"attention/{name}": attention_image(thumbnail, geometry, result.attention, level, frame)
            for level, name in enumerate(geometry.names)
        }
        cells, weights = drawn_patches(result.cells, result.weights)
        images["patches/boxes"] = patch_boxes_image(
            thumbnail, geometry, cells, weights, frame=frame, most=self.max_patches
        )
        cells, weights = cells[: self.max_patches], weights[: self.max_patches]
        images["patches/strip"] = patch_strip_image(result.pyramid.read(cells), geometry, cells, weights)
        return images


class AttentionImageSaver:
    """Writes one PNG for each picture of an evaluation: boxes, the attention of each magnification, the patches.

    A file is complete or absent. Its name (:func:`picture_name`) does not depend on order, batches or processes, so
    evaluating again replaces it.

    Args:
        output_dir: folder of the files; it is made when needed.
        class_names: names of the classes, for the title; without them their indices are written.
        max_pictures: pictures of an evaluation to write at most, in each process; by default all.
        max_patches: patches of a picture to show at most, those of greatest weight.
    """

    def __init__(
        self,
        output_dir: str | os.PathLike,
        class_names: Sequence[str] | None = None,
        max_pictures: int | None = None,
        max_patches: int = 16,
    ) -> None:
        self.output_dir, self.class_names = Path(output_dir), class_names
        self.max_pictures, self.max_patches = max_pictures, max_patches
        self._written = 0

    def attach(self, engine: Engine) -> None:
        """Write the pictures of every batch of ``engine``."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def _start(self) -> None:
        self._written = 0

    def __call__(self, engine: Engine) -> None:
        """Write the pictures of the engine's last batch."""
        left = None if self.max_pictures is None else self.max_pictures - self._written
        if left == 0:
            return
        for result in picture_results(engine)[:left]:
            if "image" in result.data:  # else it was predicted, and drawn, before the run was stopped and went on
                self._save(result)
            self._written += 1

    def _save(self, result: PictureResult) -> None:
        cells, weights = (values[: self.max_patches] for values in drawn_patches(result.cells, result.weights))
        figure = overview_figure(
            result.thumbnail,
            result.pyramid.geometry,
            result.attention,
            result.pyramid.read(cells),
            cells,
            weights,
            title=self._title(result),
            frame=result.frame,
        )
        save_figure(figure, self.output_dir / f"{picture_name(result)}.png", dpi="figure")

    def _title(self, result: PictureResult) -> str:
        """File, place of a region, and the classes that are known."""
        parts = [Path(result.filename).name]
        if any(result.pyramid.origin):
            parts.append("at row {}, column {}".format(*result.pyramid.origin))
        for word, key in (("true", "label"), ("predicted", "pred")):
            index = result.class_index(key)
            if index is not None:
                parts.append(f"{word} {self._class_name(index, result.filename)}")
        return ", ".join(parts)

    def _class_name(self, index: int, filename: str) -> str:
        if self.class_names is None:
            return f"class {index}"
        if not 0 <= index < len(self.class_names):
            raise ValueError(f"{filename}: class {index} has no name among {list(self.class_names)}.")
        return self.class_names[index]


def picture_name(result: PictureResult) -> str:
    """A file name without ending for a picture: its own, the place of a region, and six digits that tell its path.

    Raises:
        ValueError: when the picture has no file name.
    """
    if not result.filename:
        raise ValueError("a picture without a file name cannot be saved: set 'filename_or_obj' in its metadata.")
    return region_name(result.filename, result.pyramid.origin, result.pyramid.geometry.size)
