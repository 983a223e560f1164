# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files that survive a killed training: the best model, and the state to resume from.

Each is one file of a fixed name. A new file replaces the old one only when it is complete, so that there is a whole
file at any moment.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.handlers import Checkpoint
from ignite.handlers.checkpoint import BaseSaveHandler
from monai.handlers import CheckpointLoader, CheckpointSaver

from monai_jsma._io import checkpoint_file, replace_file

__all__ = ["BestModelSaver", "EarlyStopper", "TrainingStateLoader", "TrainingStateSaver", "checkpoint_file"]

_logger = logging.getLogger(__name__)


class BestModelSaver(CheckpointSaver):
    """:class:`monai.handlers.CheckpointSaver` of the key metric, whose best value so far can itself be saved.

    Without the saved value, the first validation after a resume counts as the best so far and overwrites a better
    model. Put the saver into the ``save_dict`` of :class:`TrainingStateSaver`. Of models with equal scores the latest
    is kept: with few validation images all of them are soon correct, and the model that has learned longer does better
    on others.

    Args:
        save_dir: folder of the file; it is made if needed.
        save_dict: objects to save; ``{"model": network}`` gives a plain state dict.
        filename: name of the file.
        options: further arguments of MONAI's class.

    Attributes:
        validations_since_best: number of validations since the last one that was better than all before.
    """

    def __init__(self, save_dir: str, save_dict: dict, filename: str = "model.pt", **options: Any) -> None:
        super().__init__(
            save_dir,
            save_dict,
            save_key_metric=True,
            key_metric_filename=filename,
            key_metric_greater_or_equal=True,
            **options,
        )
        self._best = cast(Any, self._key_metric_checkpoint)
        self._best.save_handler = _WholeFile(save_dir, filename)
        self._evaluator: Engine | None = None
        self._best_value: float | None = None
        self.validations_since_best = 0

    def attach(self, engine: Engine) -> None:
        """Attach to the evaluator."""
        super().attach(engine)
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._count)
        self._evaluator = engine

    def _count(self, engine: Engine) -> None:
        state: Any = engine.state
        value = state.metrics[state.key_metric_name]
        if self._best_value is None or value > self._best_value:
            self._best_value = value
            self.validations_since_best = 0
        else:
            self.validations_since_best += 1

    def state_dict(self) -> dict[str, Any]:
        """The best value, the file that holds it, and the number of validations since."""
        return {**self._best.state_dict(), "validations_since_best": self.validations_since_best}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore a saved best value, here and in the evaluator, which reports new best values."""
        super().load_state_dict(state_dict)
        self.validations_since_best = state_dict.get("validations_since_best", 0)  # earlier versions did not count
        saved = state_dict["_saved"]
        if not saved:
            return
        best_value, _ = max(saved)
        self._best_value = best_value
        if self._evaluator is None:
            return
        state: Any = self._evaluator.state
        state.best_metric = best_value
        state.best_metric_epoch = 0


class EarlyStopper:
    """Ends a training whose validations no longer improve.

    It belongs to the trainer's handlers, after the one that runs the validation. What it counts is part of the state of
    ``best``, so a resumed training counts on. (MONAI's ``EarlyStopHandler`` belongs to the evaluator and holds the
    trainer, which holds the evaluator: a configuration cannot write this circle.)

    Args:
        patience: number of validations in a row that are not better than the best before them, after which the training
            ends; None: it never does.
        best: saver of the best model, attached to the evaluator.

    Raises:
        ValueError: if the patience is not a positive whole number.
    """

    def __init__(self, patience: int | None, best: BestModelSaver) -> None:
        is_count = isinstance(patience, int) and not isinstance(patience, bool) and patience >= 1
        if patience is not None and not is_count:
            raise ValueError(
                f"early_stopping_patience must be a whole number of validations, at least 1, but is {patience!r}; None "
                "never stops early."
            )
        self.patience = patience
        self.best = best

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer."""
        if self.patience is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self)  # a training that was stopped so and is resumed
        engine.add_event_handler(Events.EPOCH_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        """End the training if it is time."""
        count = self.best.validations_since_best
        if self.patience is None or count < self.patience or engine.should_terminate:
            return
        _logger.warning("Training ends in epoch %d: no better validation in the last %d.", engine.state.epoch, count)
        engine.terminate()


class TrainingStateSaver:
    """Writes all that a training needs to be resumed, after every epoch.

    Args:
        save_dir: folder of the file; it is made if needed.
        save_dict: objects with a state: model, optimizer, trainer and so on.
        filename: name of the file.
    """

    def __init__(self, save_dir: str, save_dict: Mapping, filename: str = "checkpoint.pt") -> None:
        handler = _WholeFile(save_dir, filename)
        self._checkpoint = Checkpoint(save_dict, handler)

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, after the handler that runs the validation: its best value belongs to the state."""
        engine.add_event_handler(Events.EPOCH_COMPLETED, self._checkpoint)


class TrainingStateLoader(CheckpointLoader):
    """:class:`monai.handlers.CheckpointLoader` for what :class:`TrainingStateSaver` wrote, also in an earlier version.

    Args:
        load_path: the file.
        load_dict: objects to give their state, by their names in the file.
        optional: names of those that earlier versions did not save; they stay as they are if the file lacks them.
        options: further arguments of MONAI's class.
    """

    def __init__(self, load_path: str, load_dict: dict, *, optional: Sequence[str] = (), **options: Any) -> None:
        super().__init__(load_path, load_dict, **options)
        self.optional = optional

    def __call__(self, engine: Engine) -> None:
        """Load the file."""
        saved = torch.load(self.load_path, map_location="meta", weights_only=True)  # names alone
        missing = {name for name in self.optional if name not in saved}
        self.load_dict = {name: value for name, value in self.load_dict.items() if name not in missing}
        super().__call__(engine)


class _WholeFile(BaseSaveHandler):
    """Writes to a file of a fixed name, which is replaced by the next one and never removed before."""

    def __init__(self, folder: str | Path, filename: str) -> None:
        self.path = Path(folder) / filename

    def __call__(self, checkpoint: Mapping, filename: str, metadata: Mapping | None = None) -> None:
        if idist.get_rank() != 0:
            return
        self._check_numbers(checkpoint)
        with replace_file(self.path) as unfinished:
            try:
                torch.save(checkpoint, unfinished)
            except RuntimeError as error:  # PyTorch writes in C++, which says neither file nor reason
                raise OSError(
                    f"{self.path}: the weights cannot be written ({str(error).splitlines()[0]}); is the disk full? "
                    "The file of before is whole: make room, and go on with 'resume'."
                ) from error

    def _check_numbers(self, checkpoint: Mapping) -> None:
        """Keep the file of the last sound weights: the next update may be the first to be NaN.

        Raises:
            ValueError: if a tensor holds NaN.
        """
        name = _find_nan(checkpoint)
        if name is not None:
            raise ValueError(
                f"{self.path} is not written: '{name}' is NaN, the training has diverged. An earlier file stays: "
                "resume from it with a lower 'lr', or without mixed precision ('amp')."
            )

    def remove(self, filename: str) -> None:
        """Do nothing: the next file replaces this one."""


def _find_nan(state: Any) -> str | None:
    """Name of a tensor with NaN in a state of nested dictionaries and lists, such as "model.classifier.weight"."""
    if isinstance(state, torch.Tensor):
        return "" if torch.isnan(state).any() else None
    parts: Iterable[tuple[Any, Any]] = ()
    if isinstance(state, Mapping):
        parts = state.items()
    elif isinstance(state, list | tuple):
        parts = enumerate(state)
    for key, value in parts:
        name = _find_nan(value)
        if name is not None:
            return f"{key}.{name}" if name else str(key)
    return None
