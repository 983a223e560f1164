# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Scalars of TensorBoard, grouped by what they measure, with training and validation on one axis of epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.handlers import TensorBoardStatsHandler

__all__ = ["ScalarHandler", "group_tag"]

_WORKFLOWS = ("train", "val")
_GROUPS = ("attention_share", "attention_enrichment", "truth")


def group_tag(name: str) -> str:
    """The tag of a metric in TensorBoard, which draws tags of one group below one heading.

    Args:
        name: name of the metric, such as ``"attention_share_100X"`` or ``"val_loss"``.

    Returns:
        its tag, such as ``"attention_share/100X"`` or ``"loss/val"``; the name itself if it belongs to no group.
    """
    for workflow in _WORKFLOWS:
        if name.startswith(f"{workflow}_"):
            return f"{name.removeprefix(f'{workflow}_')}/{workflow}"
    for group in _GROUPS:
        if name.startswith(f"{group}_"):
            return f"{group}/{name.removeprefix(f'{group}_')}"
    return name


class ScalarHandler(TensorBoardStatsHandler):
    """:class:`monai.handlers.TensorBoardStatsHandler` that writes once an epoch, with the tags of :func:`group_tag`.

    Args:
        summary_writer: writer that is shared with other handlers; by default the handler makes one.
        log_dir: folder of the handler's own writer.
        loss: function that gives the loss from the output of a trainer. Its mean over the iterations of an epoch is
            written as ``loss/train``, beside ``loss/val``.
        options: further arguments of MONAI's class.
    """

    def __init__(
        self,
        summary_writer: Any = None,
        log_dir: str = "./runs",
        *,
        loss: Callable[[Any], Any] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(summary_writer, log_dir, iteration_log=False, **options)
        self.loss = loss
        self._losses: list[torch.Tensor] = []

    def attach(self, engine: Engine) -> None:
        """Write on completed epochs of ``engine``."""
        super().attach(engine)
        if self.loss is None:
            return
        engine.add_event_handler(Events.EPOCH_STARTED, self._forget_losses)
        engine.add_event_handler(Events.ITERATION_COMPLETED, self._add_loss)

    def _forget_losses(self) -> None:
        self._losses = []

    def _add_loss(self, engine: Engine) -> None:
        assert self.loss is not None
        loss = torch.as_tensor(self.loss(engine.state.output))
        self._losses.append(loss.detach().mean())  # not read yet: the GPU need not be waited for

    def _default_epoch_writer(self, engine: Engine, writer: Any) -> None:
        if self._losses:
            mean = torch.stack(self._losses).double().mean().item()
            step = self.global_epoch_transform(engine.state.epoch)
            writer.add_scalar("loss/train", mean, step)
        super()._default_epoch_writer(engine, writer)

    def _write_scalar(self, _engine: Engine, writer: Any, tag: str, value: Any, step: int) -> None:
        super()._write_scalar(_engine, writer, group_tag(tag), value, step)
