# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Validation every few epochs, and of what a training ends with."""

from __future__ import annotations

from ignite.engine import Engine, Events
from monai.handlers import ValidationHandler

__all__ = ["EpochValidationHandler"]


class EpochValidationHandler(ValidationHandler):
    """:class:`monai.handlers.ValidationHandler` of every few epochs that never misses the last one.

    The model that is kept is that of the best validation. If the interval did not divide the number of epochs, the last
    ones were trained for nothing; if it was larger, there was no model at all. A training that is ended early, by any
    handler, is validated as it ended.

    Args:
        interval: number of epochs between two validations.
        validator: evaluator that runs them.

    Raises:
        ValueError: if the interval is not a positive whole number.
    """

    def __init__(self, interval: int, validator: object) -> None:
        is_count = isinstance(interval, int) and not isinstance(interval, bool) and interval >= 1
        if not is_count:
            raise ValueError(f"val_interval must be a whole number of epochs, at least 1, but is {interval!r}.")
        super().__init__(interval, validator)  # type: ignore[arg-type]
        self._trained_since = False

    def attach(self, engine: Engine) -> None:
        """Attach to the trainer, before the handlers that save its state."""
        due = Events.EPOCH_COMPLETED(event_filter=self._is_due)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._note_training)
        engine.add_event_handler(due, self)
        engine.add_event_handler(Events.COMPLETED, self._validate_the_rest)

    def __call__(self, engine: Engine) -> None:
        """Validate."""
        self._trained_since = False
        super().__call__(engine)

    def _is_due(self, engine: Engine, epoch: int) -> bool:
        return epoch % self.interval == 0 or epoch == engine.state.max_epochs

    def _note_training(self, engine: Engine) -> None:
        self._trained_since = True

    def _validate_the_rest(self, engine: Engine) -> None:
        if self._trained_since:
            self(engine)
