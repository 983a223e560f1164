# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers that show where the network looked: in TensorBoard, and as one PNG per image (paper, Section 4.3.4).

Both take the evidence of the engine's batches and read background and patches again from the pyramids. They work on
trainers and evaluators.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardHandler

from monai_jsma._io import name_region
from monai_jsma.handlers.picture_choice import Candidate, PictureKey, choose_pictures, make_candidate, name_pictures
from monai_jsma.handlers.picture_writing import write_picture
from monai_jsma.networks import read_class_names
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.from_engine import collect_evidence
from monai_jsma.visualize import (
    attention_image,
    describe_answer,
    describe_place,
    draw_card,
    patch_boxes_image,
    patch_strip_image,
    read_background,
    save_pixels,
)

__all__ = ["AttentionImageHandler", "AttentionImageSaver", "picture_name"]


class AttentionImageHandler(TensorBoardHandler):
    """Writes to TensorBoard what a network looked at in a few images, the same ones every epoch.

    The images are chosen in the first epoch that is written, from all that the engine sees: all classes, and of each
    class right and wrong ones (:func:`~monai_jsma.handlers.choose_pictures`). Each is one picture
    (:func:`~monai_jsma.visualize.draw_card`) with the tag ``attention/FILE``, so that TensorBoard's slider shows how
    the attention was learned. Pictures are stored as JPEG, which takes a fraction of the space and time of PNG. Which
    images are shown is the handler's state: with it in the ``save_dict`` of
    :class:`~monai_jsma.handlers.TrainingStateSaver` they are the same after a resume.

    Args:
        summary_writer: writer that is shared with other handlers; by default the handler makes one.
        log_dir: folder of the handler's own writer.
        interval: number of epochs from one writing to the next.
        max_pictures: number of images to choose; None: all.
        max_patches: maximum number of patches of an image to show, those of highest weight.
        tag_prefix: prefix of every tag, where a trainer and an evaluator share a writer.
        global_epoch_transform: function that gives the step from the engine's epoch, if that is not the trainer's.
        class_names: names of the classes, for the titles, which must be those of the network's weights; by default
            these, and the indices if there are none.
        panels: whether to write single maps too: ``attention_map/<magnification>/FILE``, ``patches/boxes/FILE`` and
            ``patches/strip/FILE``, which take seconds.
        seed: random seed of the choice.
        gather: whether the handler is attached in all processes of a distributed evaluation. Then the images are chosen
            from those of all processes and written by the first one. Otherwise each process shows its own.
    """

    def __init__(
        self,
        summary_writer: Any = None,
        log_dir: str = "./runs",
        interval: int = 1,
        *,
        max_pictures: int | None = 2,
        max_patches: int = 8,
        tag_prefix: str = "",
        global_epoch_transform: Callable[[int], int] = lambda epoch: epoch,
        class_names: Sequence[str] | None = None,
        panels: bool = False,
        seed: int = 0,
        gather: bool = False,
    ) -> None:
        self.gather = gather and idist.get_world_size() > 1
        if self.gather and idist.get_rank() > 0:  # MONAI's class would make a writer
            self._writer: Any = None
            self.internal_writer = False
        else:
            super().__init__(summary_writer=summary_writer, log_dir=log_dir)
        self.interval = interval
        self.max_pictures = max_pictures
        self.max_patches = max_patches
        self.tag_prefix = tag_prefix
        self.global_epoch_transform = global_epoch_transform
        self.class_names = class_names
        self.panels = panels
        self.seed = seed
        self._chosen: list[PictureKey] | None = None
        self._candidates: dict[PictureKey, Candidate] = {}
        self._held: dict[PictureKey, Evidence] = {}  # what will be drawn at the end of the epoch
        self._count = 0

    def attach(self, engine: Engine) -> None:
        """Collect the chosen images of ``engine`` in every epoch that is due, and write them at its end."""
        if self.max_pictures == 0:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._start)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._collect)
        engine.add_event_handler(Events.EPOCH_COMPLETED(every=self.interval), self)

    def state_dict(self) -> dict[str, Any]:
        """Which images are shown, and how many were asked for."""
        chosen = None if self._chosen is None else [tuple(key) for key in self._chosen]
        return {"max_pictures": self.max_pictures, "chosen": chosen}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Go on with the images of a state, unless another number is asked for now."""
        chosen = state_dict["chosen"]
        if chosen is not None and state_dict["max_pictures"] == self.max_pictures:
            self._chosen = [PictureKey(*key) for key in chosen]

    def _start(self) -> None:
        self._candidates = {}
        self._held = {}
        self._count = 0

    def _collect(self, engine: Engine) -> None:
        """Keep what is to be drawn of the engine's last batch."""
        if engine.state.epoch % self.interval:
            return
        for evidence in collect_evidence(engine):
            key = self._identify(evidence)
            self._count += 1
            if evidence.pyramid is None:  # a record's: it was drawn when it was predicted
                continue
            if self._chosen is None:
                self._candidates[key] = make_candidate(evidence, key, seed=self.seed)
                self._held[key] = evidence
            elif key in self._chosen:
                self._held[key] = evidence
        if self._chosen is None:  # what is not chosen of the images so far will not be chosen of all
            self._keep(choose_pictures(self._candidates.values(), self.max_pictures))

    def _identify(self, evidence: Evidence) -> PictureKey:
        """The image itself; images without a file are numbered in the order of a distributed evaluation."""
        number = self._count * idist.get_world_size() + idist.get_rank()
        file = evidence.file or f"image_{number}"
        return PictureKey(file, evidence.location, evidence.stored_geometry.size)

    def _keep(self, candidates: Sequence[Candidate]) -> None:
        keys = [candidate.key for candidate in candidates]
        self._candidates = {candidate.key: candidate for candidate in candidates}
        self._held = {key: self._held[key] for key in keys if key in self._held}

    def __call__(self, engine: Engine) -> None:
        """Write the chosen images of the epoch."""
        if self._chosen is None:
            candidates = self._gather(list(self._candidates.values()))
            chosen = choose_pictures(candidates, self.max_pictures)
            if not chosen:
                return
            self._keep(chosen)
            self._chosen = [candidate.key for candidate in chosen]

        names = read_class_names(getattr(engine, "network", None), self.class_names)
        drawn = self._gather([(key, self._draw(evidence, names)) for key, evidence in self._held.items()])
        self._held = {}
        if not drawn:  # the images of a resumed training lie elsewhere now
            self._chosen = None
            return
        step = self.global_epoch_transform(engine.state.epoch)
        self._write(drawn, step)

    def _gather(self, values: list[Any]) -> list[Any]:
        """The values of all processes."""
        if not self.gather:
            return values
        lists: Any = idist.all_gather(values)
        return [value for of_process in lists for value in of_process]

    def _write(self, drawn: Sequence[tuple[PictureKey, dict[str, np.ndarray]]], step: int) -> None:
        if self._writer is None:
            return
        names = name_pictures(self._chosen or [])
        for key, images in drawn:
            for group, image in images.items():
                write_picture(self._writer, f"{self.tag_prefix}{group}/{names[key]}", image, step=step)
        self._writer.flush()

    def _draw(self, evidence: Evidence, names: Sequence[str] | None) -> dict[str, np.ndarray]:
        """Pictures of an image by the first part of their tags."""
        title = f"{describe_place(evidence)}\n{describe_answer(evidence, names)}"
        images = {"attention": draw_card(evidence, title=title, max_patches=self.max_patches)}
        if self.panels:
            evidence = read_background(evidence)
            for level, name in enumerate(evidence.geometry.names):
                images[f"attention_map/{name}"] = attention_image(evidence, level)
            images["patches/boxes"] = patch_boxes_image(evidence, max_boxes=self.max_patches)
            images["patches/strip"] = patch_strip_image(evidence, max_patches=self.max_patches)
        return images


class AttentionImageSaver:
    """Writes one PNG for each image of an evaluation, as :func:`~monai_jsma.visualize.draw_card` draws it.

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
        title = f"{describe_place(evidence)}\n{describe_answer(evidence, self._names)}"
        card = draw_card(evidence, title=title, max_patches=self.max_patches)
        save_pixels(card, self.output_dir / f"{picture_name(evidence)}.png")


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
