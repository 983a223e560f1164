# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files that survive a killed training: the best model, and the state to go on from.

Each is one file of a fixed name. A new one takes the place of the old one only when it is complete, so that there is a
whole file at any moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers import CheckpointSaver

from monai_jsma._io import checkpoint_file, replace_file

__all__ = ["BestModelSaver", "TrainingStateSaver", "checkpoint_file"]


class BestModelSaver(CheckpointSaver):
    """:class:`monai.handlers.CheckpointSaver` of the key metric whose memory of the best value can itself be saved.

    Without it the first validation after a resume counts as the best so far and overwrites a better model. Put it into
    the ``save_dict`` of :class:`TrainingStateSaver`. Of models that score alike the latest is kept: few validation
    pictures are soon all right, and what has learned longer is surer of others.

    Args:
        save_dir: folder of the file; it is made when needed.
        save_dict: ``{"model": network}`` gives a plain state dict.
        filename: of the file.
        options: of MONAI's class.
    """

    def __init__(self, save_dir: str, save_dict: dict, filename: str = "model.pt", **options: Any) -> None:
        super().__init__(
            save_dir, save_dict, save_key_metric=True, key_metric_filename=filename, key_metric_greater_or_equal=True,
            **options,
        )  # fmt: skip
        self._best = cast(Any, self._key_metric_checkpoint)
        self._best.save_handler = _WholeFile(save_dir, filename)
        self._evaluator: Engine | None = None

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        super().attach(engine)
        self._evaluator = engine

    def state_dict(self) -> dict[str, Any]:
        """The best value and the file that holds it."""
        return dict(self._best.state_dict())

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from a saved memory; also tells the evaluator, which reports new best values."""
        super().load_state_dict(state_dict)
        if self._evaluator is not None and state_dict["_saved"]:
            state: Any = self._evaluator.state
            state.best_metric, state.best_metric_epoch = max(state_dict["_saved"])[0], 0


class TrainingStateSaver:
    """Writes all that a training needs to go on, after every epoch.

    Args:
        save_dir: folder of the file; it is made when needed.
        save_dict: what has a state: model, optimizer, trainer and so on.
        filename: of the file.
    """

    def __init__(self, save_dir: str, save_dict: Mapping, filename: str = "checkpoint.pt") -> None:
        self._checkpoint = Checkpoint(save_dict, _WholeFile(save_dir, filename))

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after what runs the validation: its best value belongs to the state."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._checkpoint)


class _WholeFile(BaseSaveHandler):
    """Writes to a file of a fixed name, which is replaced and never removed before."""

    def __init__(self, folder: str | Path, filename: str) -> None:
        self.path = Path(folder) / filename

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        if idist.get_rank() == 0:
            with replace_file(self.path) as unfinished:
                torch.save(checkpoint, unfinished)

    def remove(self, filename: str) -> None:
        """Nothing: the next one takes its place."""
