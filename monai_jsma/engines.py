# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainer and evaluator: MONAI's, told how to hand the pyramids to the network and how to name what it gives back.

``engine.state.output`` then holds ``image``, ``label``, ``pred`` (logits), ``attention``, ``cells``, ``weights`` and,
in training, ``loss``: batch first, so that MONAI's postprocessing, handlers and metrics work on them as on any other
output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import ignite.distributed as idist
import torch
from ignite.engine import Engine, Events
from ignite.engine.events import RemovableEventHandle
from monai.data import MetaTensor, decollate_batch
from monai.engines import PrepareBatch, SupervisedEvaluator, SupervisedTrainer
from monai.engines.utils import IterationEvents

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import FailedRegion, PatchError, collate_readable

__all__ = ["JSMAEvaluator", "JSMAPredictor", "JSMATrainer", "PrepareBatchJSMA"]


class PrepareBatchJSMA(PrepareBatch):
    """Moves thumbnails and labels to the device and passes the pyramids on to ``network.forward``.

    Args:
        image_key: of the thumbnails (or whole pictures, where there are no pyramids).
        label_key: of the labels; a batch without them gives None.
        pyramid_key: of the pyramids, as :class:`~monai_jsma.transforms.PyramidThumbnaild` names them.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label", pyramid_key: str = "pyramid") -> None:
        self.image_key, self.label_key, self.pyramid_key = image_key, label_key, pyramid_key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple:
        """Images, labels, no further arguments, and the keywords of ``network.forward``."""
        image = batchdata[self.image_key]
        image = (
            image.as_tensor() if isinstance(image, MetaTensor) else image
        )  # cropping is far cheaper without metadata
        label = batchdata.get(self.label_key)
        label = label if label is None else label.to(device, non_blocking=non_blocking, **kwargs)
        forward = {"pyramid": batchdata.get(self.pyramid_key), "return_attention": True}
        return image.to(device, non_blocking=non_blocking, **kwargs), label, (), forward


class JSMATrainer(SupervisedTrainer):
    """:class:`monai.engines.SupervisedTrainer` for the networks of :mod:`monai_jsma.networks`, with its arguments.

    A loss that is not finite stops the training before the weights are changed.

    Raises:
        RuntimeError: while running, when the loss is not finite.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", PrepareBatchJSMA())
        super().__init__(*args, **kwargs)
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, _check_loss)
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, _flatten_output)


class JSMAEvaluator(SupervisedEvaluator):
    """:class:`monai.engines.SupervisedEvaluator` for the same networks, with its arguments.

    It runs under PyTorch's inference mode: what it gives cannot be part of a later gradient.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", PrepareBatchJSMA())
        super().__init__(*args, **kwargs)
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, _flatten_output)

    @torch.inference_mode()
    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        return super()._iteration(engine, batchdata)


class JSMAPredictor(JSMAEvaluator):
    """:class:`JSMAEvaluator` that goes on when a file cannot be read: for evaluation and inference after training.

    Its batches come from :func:`~monai_jsma.data.collate_readable`. What failed there, or later when the network read
    its patches, is listed in ``engine.state.failures``; the rest of the batch is predicted without it. Handlers of an
    iteration and metrics see only batches of which something was predicted.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        add = super().add_event_handler  # these see every iteration
        add(Events.STARTED, self._start)
        add(Events.ITERATION_COMPLETED, self._count)

    def add_event_handler(self, event_name: Any, handler: Callable, *args: Any, **kwargs: Any) -> RemovableEventHandle:
        """As Ignite's; a handler of every completed iteration is not called after one that has no output."""
        if event_name == Events.ITERATION_COMPLETED and event_name.filter is None:
            event_name = Events.ITERATION_COMPLETED(event_filter=lambda engine, _: bool(engine.state.output))
        return super().add_event_handler(event_name, handler, *args, **kwargs)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Predict; without any batch the handlers are still told of start and end."""
        if self.state.epoch_length:
            super().run(global_epoch)
        else:
            self.fire_event(Events.STARTED)
            self.fire_event(Events.COMPLETED)

    def _start(self) -> None:
        self.state.failures, self._predicted = [], 0

    def _count(self) -> None:
        self._predicted += len(self.state.output)
        last = self.state.iteration == self.state.epoch_length
        if last and not idist.all_reduce(self._predicted):
            self.terminate()  # metrics of nothing are an error

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        self.state.failures += batchdata.pop("failures")
        while batchdata:
            self.state.batch = batchdata
            try:
                return super()._iteration(engine, batchdata)
            except PatchError as error:
                items = decollate_batch(batchdata)
                for i, reason in error.errors.items():
                    pyramid = items[i]["pyramid"]
                    row, col = pyramid.origin
                    self.state.failures.append(FailedRegion(pyramid.path, row, col, str(reason)))
                batchdata = collate_readable([item for i, item in enumerate(items) if i not in error.errors])
                del batchdata["failures"]
        self.state.batch = self.state.output = []
        return []


def _flatten_output(engine: Engine) -> None:
    """``pred`` becomes the logits; attention, cells, weights and what else was found stand beside it."""
    output = engine.state.output
    pred = output["pred"]  # type: ignore[index]
    if isinstance(pred, Mapping):
        names = ("attention", "cells", "weights", "draw_probabilities", "certified", "intervals")
        kept = {name: pred[name] for name in names if name in pred}
        output.update(kept, pred=pred["logits"])  # type: ignore[union-attr]


def _check_loss(engine: Engine) -> None:
    loss = engine.state.output["loss"]  # type: ignore[index]
    if torch.isfinite(loss).all():
        return
    pyramids = engine.state.batch.get("pyramid") if isinstance(engine.state.batch, Mapping) else None
    files = ", ".join(sorted({p.path for p in pyramids})) if isinstance(pyramids, PyramidBatch) else "no files"
    raise RuntimeError(
        f"the loss is {loss.detach().mean().item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration} "
        f"({files}). The last checkpoint is untouched: resume from it with a lower 'lr', or without mixed precision "
        "('amp')."
    )
