# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Trainer, evaluator and predictor: MONAI's engines, which pass the pyramids to the network and name its outputs.

``engine.state.output`` holds ``image``, ``label``, ``pred`` (logits), ``attention``, ``cells``, ``weights`` and, in
training, ``loss``: batch first, so that MONAI's postprocessing, handlers and metrics work on them as on any other
output.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ignite.distributed as idist
import numpy as np
import torch
from ignite.engine import Engine, Events
from ignite.metrics import Metric
from monai.data import MetaTensor, decollate_batch, list_data_collate
from monai.engines import PrepareBatch, SupervisedEvaluator, SupervisedTrainer, Workflow
from monai.engines.utils import IterationEvents, engine_apply_transform
from monai.inferers import SimpleInferer
from monai.transforms import Transform
from monai.utils import ensure_tuple

from monai_jsma._io import Fault, replace_file
from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import BatchError, NotFiniteError
from monai_jsma.inferers import Bfloat16Inferer
from monai_jsma.networks import JSMANet, all_cells, fit_logistic, weighted_sum
from monai_jsma.networks.classifier import find_logits
from monai_jsma.networks.finite import DeferredChecks, defer_checks
from monai_jsma.predictions.evidence import Evidence
from monai_jsma.predictions.patch_counts import EpochPatches, write_patch_counts
from monai_jsma.tasks import MULTICLASS, make_multi_hot

_EVIDENCE = (  # what else of the network's output tells how it came to its answer
    "attention",
    "regions",
    "num_regions",
    "seen_regions",
    "seen_probability",
    "seen_attention",
    "cells",
    "weights",
    "draw_probabilities",
    "certified",
    "confidence",
    "intervals",
)

__all__ = ["JSMAEvaluator", "JSMAPredictor", "JSMATrainer", "PrepareBatchJSMA", "fit_classifier"]

_log = logging.getLogger(__name__)


class PrepareBatchJSMA(PrepareBatch):
    """Moves thumbnails and labels to the device and passes the pyramids on to ``network.forward``.

    Args:
        image_key: key of the thumbnails (or of the whole images, where there are no pyramids).
        label_key: key of the labels; a batch without labels gives None.
        pyramid_key: key of the pyramids, as :class:`~monai_jsma.transforms.PyramidThumbnaild` names it.
    """

    def __init__(self, image_key: str = "image", label_key: str = "label", pyramid_key: str = "pyramid") -> None:
        self.image_key = image_key
        self.label_key = label_key
        self.pyramid_key = pyramid_key

    def __call__(
        self,
        batchdata: Mapping[str, Any],
        device: str | torch.device | None = None,
        non_blocking: bool = False,
        **kwargs: Any,
    ) -> tuple:
        """Images, labels, no further positional arguments, and the keyword arguments of ``network.forward``."""
        image = batchdata[self.image_key]
        if isinstance(image, MetaTensor):
            image = image.as_tensor()  # cropping is far cheaper without metadata
        image = image.to(device, non_blocking=non_blocking, **kwargs)
        label = batchdata.get(self.label_key)
        if label is not None:
            label = label.to(device, non_blocking=non_blocking, **kwargs)
        forward_options = {"pyramid": batchdata.get(self.pyramid_key), "return_attention": True}
        return image, label, (), forward_options


class JSMATrainer(SupervisedTrainer):
    """:class:`monai.engines.SupervisedTrainer` for the networks of :mod:`monai_jsma.networks`, with the same arguments.

    Attention, logits or a loss that are not finite stop the training before the weights are changed. Logits and loss
    are looked at together, so that the device is waited for once. ``additional_metrics`` need no ``key_train_metric``.
    ``amp`` is bfloat16 on a CPU, see :class:`~monai_jsma.inferers.Bfloat16Inferer`.

    Raises:
        RuntimeError: while running, when one of them is not finite; it names the images.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", PrepareBatchJSMA())
        super().__init__(**_bind_arguments(SupervisedTrainer, *args, **kwargs))
        self._checks = DeferredChecks()
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, self._check_step)
        self.add_event_handler(IterationEvents.LOSS_COMPLETED, _flatten_output)

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        with _name_files(batchdata), defer_checks() as self._checks:
            return super()._iteration(engine, batchdata)

    def _check_step(self) -> None:
        """Stop before the optimizer makes a step on numbers that are not finite."""
        output: Any = self.state.output
        loss = output["loss"]
        if self._checks.pass_with(loss):
            return
        self._checks.raise_first()
        raise RuntimeError(_describe_loss(self, loss))


@torch.inference_mode()
def fit_classifier(
    network: JSMANet,
    data_loader: Iterable[Mapping[str, Any]],
    *,
    file: str | Path,
    device: str | torch.device | None = None,
    balanced: bool = True,
) -> None:
    """Fit the linear classifier of a network by logistic regression, and save the weights; nothing else learns.

    The features of an image are those of all its patches, each with its attention: without a thumbnail encoder their
    mean. How many patches these are is written to ``patches.csv`` beside the weights.

    Args:
        network: network whose patch encoder is as it shall stay; unwrapped, where several processes train.
        data_loader: batches of the training images, each image once and as it will be seen in evaluation.
        file: file of the weights.
        device: device of the network.
        balanced: let every class count the same, however many images it has.

    Raises:
        ValueError: if a class has no image, or the task is not ``"multiclass"``.
    """
    if network.task != MULTICLASS:
        raise ValueError(
            f"the classifier of the task '{network.task}' is not fitted: logistic regression is of classes. Train it, "
            "without the overlay mean_features."
        )
    network.eval()
    prepare = PrepareBatchJSMA()
    bags = []
    labels = []
    num_patches = 0
    for batch in data_loader:
        image, label, _, options = prepare(batch, device)
        pyramid = options["pyramid"]
        log_attention = network.attend(image, pyramid.grids)
        draw = all_cells(log_attention)
        num_patches += int(draw.drawn.sum())
        features = network.patch_encoder.encode_draw(pyramid, draw, in_chunks=True)  # (batch, cells, features)
        bags.append(weighted_sum(features, draw.weights).double().cpu())
        labels.append(label.cpu())

    classifier = network.classifier
    features = torch.cat(bags) * classifier.scale
    truth = torch.cat(labels)
    weight, bias = fit_logistic(features.numpy(), truth.numpy(), num_classes=classifier.out_features, balanced=balanced)
    classifier.weight.copy_(torch.from_numpy(weight))
    classifier.bias.copy_(torch.from_numpy(bias))
    if idist.get_rank() == 0:
        with replace_file(file) as unfinished:
            torch.save(network.state_dict(), unfinished)
        write_patch_counts(Path(file).with_name("patches.csv"), [EpochPatches(1, len(truth), num_patches)])


class JSMAEvaluator(SupervisedEvaluator):
    """:class:`monai.engines.SupervisedEvaluator` for the networks of :mod:`monai_jsma.networks`, with its arguments.

    It runs in PyTorch's inference mode: its outputs cannot be part of a later gradient. ``additional_metrics`` need no
    ``key_val_metric``, as images without labels have none. ``amp`` is bfloat16 on a CPU, see
    :class:`~monai_jsma.inferers.Bfloat16Inferer`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("prepare_batch", PrepareBatchJSMA())
        super().__init__(**_bind_arguments(SupervisedEvaluator, *args, **kwargs))
        self.add_event_handler(IterationEvents.FORWARD_COMPLETED, _flatten_output)

    @torch.inference_mode()
    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> dict:
        with _name_files(batchdata):
            return super()._iteration(engine, batchdata)


class JSMAPredictor(JSMAEvaluator):
    """:class:`JSMAEvaluator` that continues when a file cannot be read: for evaluation and inference after training.

    Its batches come from :func:`~monai_jsma.data.collate_readable`. What could not be read there, or later when the
    network read its patches, and images for which the network gives no finite numbers, are listed in
    ``engine.state.failures``; the rest of the batch is predicted. Images that were predicted before the run was stopped
    are in ``engine.state.batch`` and ``engine.state.output`` beside the others, so that metrics are of all images. An
    iteration of which no image is left is not completed: neither handlers nor metrics see it.

    Args:
        args: arguments of :class:`monai.engines.SupervisedEvaluator`.
        postprocessing: transform of the output of each image.
        kwargs: further arguments of :class:`monai.engines.SupervisedEvaluator`; ``decollate`` must stay true.

    Raises:
        ValueError: if ``decollate`` is false.
    """

    def __init__(self, *args: Any, postprocessing: Transform | None = None, **kwargs: Any) -> None:
        if not kwargs.get("decollate", True):
            raise ValueError("JSMAPredictor gives one output for each image: leave 'decollate' true.")
        super().__init__(*args, postprocessing=postprocessing, **kwargs)
        self.postprocessing = postprocessing
        self.add_event_handler(Events.STARTED, self._start)

    def run(self, global_epoch: int = 1) -> None:  # type: ignore[override]
        """Predict; without any batch the handlers of start and end are still called."""
        if self.state.epoch_length:
            super().run(global_epoch)
        else:
            self.fire_event(Events.STARTED)
            self.fire_event(Events.COMPLETED)

    def _start(self) -> None:
        self.state.failures = []
        self._num_predicted = 0

    def _iteration(self, engine: Any, batchdata: dict[str, Any]) -> Any:
        self.state.failures += batchdata.pop("failures", [])
        recorded = batchdata.pop("recorded", [])
        items, outputs = self._predict_readable(batchdata)
        for item in recorded:
            items.append(item)
            outputs.append(self._restore_output(item))
        self.state.batch = items

        self._num_predicted += len(items)
        is_last = self.state.iteration == self.state.epoch_length
        if is_last and not idist.all_reduce(self._num_predicted):
            self.terminate()  # metrics of nothing are an error
        return outputs

    def _predict_readable(self, batchdata: dict[str, Any]) -> tuple[list[dict], list[dict]]:
        """Items and outputs of the images whose patches can be read; the others are failures."""
        while batchdata:
            self.state.batch = batchdata
            try:
                outputs: Any = super()._iteration(self, batchdata)
                return self.state.batch, outputs
            except BatchError as error:
                batchdata = self._drop_failures(batchdata, error)
        return [], []

    def _drop_failures(self, batchdata: dict[str, Any], error: BatchError) -> dict[str, Any]:
        """The batch without the images of an error; empty if none is left."""
        readable = []
        for i, item in enumerate(decollate_batch(batchdata)):
            if i not in error.errors:
                readable.append(item)
                continue
            reason = str(error.errors[i])
            if "pyramid" in item:
                pyramid = item["pyramid"]
                fault = Fault(pyramid.path, error.stage, reason, location=pyramid.origin)
            else:
                file = getattr(item["image"], "meta", {}).get("filename_or_obj", "")
                fault = Fault(str(file), error.stage, reason)
            self.state.failures.append(fault)
        return list_data_collate(readable) if readable else {}

    def _restore_output(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """The output for an image that was predicted before, as network and postprocessing gave it then."""
        evidence: Evidence = item["evidence"]
        label: Any = evidence.label
        if isinstance(label, tuple):
            label = self._to_device(make_multi_hot(label, len(evidence.thresholds or ())))
        probabilities = self._to_device(evidence.scores)
        output: dict[str, Any] = {
            "pred": find_logits(probabilities, multi_label=evidence.thresholds is not None),
            "label": label,
            "attention": self._to_device(evidence.attention),
            "cells": torch.as_tensor(evidence.cells, device=self.state.device),
            "weights": self._to_device(evidence.weights),
        }
        if evidence.certified is not None:
            output["certified"] = evidence.certified
        if evidence.confidence is not None:
            output["confidence"] = evidence.confidence
        for name in ("draw_probabilities", "intervals"):
            values = getattr(evidence, name)
            if values is not None:
                output[name] = self._to_device(values)
        if self.postprocessing is not None:
            _, output = engine_apply_transform(batch=dict(item), output=output, transform=self.postprocessing)
        return output

    def _to_device(self, values: np.ndarray | None) -> torch.Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=self.state.device)

    def _fire_event(self, event_name: Any, *event_args: Any, **event_kwargs: Any) -> None:
        """Do not complete an iteration of which no image is left.

        MONAI's handlers and metrics need at least one image, and Ignite has no public way to skip an iteration.
        """
        if event_name == Events.ITERATION_COMPLETED and not self.state.output:
            return
        super()._fire_event(event_name, *event_args, **event_kwargs)


@contextmanager
def _name_files(batchdata: Mapping[str, Any]) -> Iterator[None]:
    """Let the errors of whole images name their files, which a network without pyramids does not know."""
    try:
        yield
    except NotFiniteError as error:
        metadata = getattr(batchdata.get("image"), "meta", {})
        files = metadata.get("filename_or_obj")
        if batchdata.get("pyramid") is not None or not isinstance(files, list):
            raise
        named: dict[int, Exception] = {}
        for number, reason in error.errors.items():
            named[number] = ValueError(f"{files[number]}: {reason}")
        raise NotFiniteError(named) from error


def _flatten_output(engine: Engine) -> None:
    """Put the logits in place of the network's dictionary, and the other entries beside them."""
    output: Any = engine.state.output
    pred = output["pred"]
    if not isinstance(pred, Mapping):
        return
    output["pred"] = pred["logits"]
    for name in _EVIDENCE:
        if name in pred:
            output[name] = pred[name]


def _describe_loss(engine: Engine, loss: torch.Tensor) -> str:
    """Why a training stops at a loss that is not finite."""
    batch = engine.state.batch
    pyramids = batch.get("pyramid") if isinstance(batch, Mapping) else None
    files = "no files"
    if isinstance(pyramids, PyramidBatch):
        files = ", ".join(sorted({pyramid.path for pyramid in pyramids}))
    return (
        f"the loss is {loss.detach().mean().item()} in epoch {engine.state.epoch}, iteration {engine.state.iteration} "
        f"({files}). The last checkpoint is untouched: resume from it with a lower 'lr', or without mixed precision "
        "('amp')."
    )


def _bind_arguments(workflow: type[Workflow], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """The arguments of an engine of MONAI by name, changed where ours does more.

    Args:
        workflow: class of the engine.
        args: its positional arguments.
        kwargs: its keyword arguments.
    """
    arguments = inspect.signature(workflow).bind(*args, **kwargs).arguments
    _keep_metrics(workflow, arguments)
    _use_bfloat16(arguments)
    return arguments


def _keep_metrics(workflow: type[Workflow], arguments: dict[str, Any]) -> None:
    """Keep additional metrics without a key metric.

    MONAI attaches both or none of them. A handler attaches the additional ones, first of all handlers, as those write
    what the metrics have computed.
    """
    metrics = arguments.get("additional_metrics")
    is_trainer = issubclass(workflow, SupervisedTrainer)
    key_metric = "key_train_metric" if is_trainer else "key_val_metric"
    handlers = "train_handlers" if is_trainer else "val_handlers"
    if not metrics or arguments.get(key_metric) is not None:
        return
    others = arguments.get(handlers) or ()
    arguments[handlers] = [_MetricAttacher(metrics), *ensure_tuple(others)]


def _use_bfloat16(arguments: dict[str, Any]) -> None:
    """Let mixed precision on a CPU be bfloat16: MONAI's is CUDA's, and does nothing there."""
    if not arguments.get("amp") or torch.device(arguments["device"]).type != "cpu":
        return
    if not _has_bfloat16():
        _log.warning("'amp': this processor computes bfloat16 by float32, which is slower than without it.")
    arguments["amp"] = False
    arguments["inferer"] = Bfloat16Inferer(arguments.get("inferer") or SimpleInferer())


def _has_bfloat16() -> bool:
    """Whether this processor computes bfloat16 itself, as far as PyTorch tells."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return True
    capabilities = torch.cpu.get_capabilities()
    return capabilities.get("architecture") != "x86_64" or bool(capabilities.get("avx512_bf16"))


class _MetricAttacher:
    """A handler that attaches metrics by their names."""

    def __init__(self, metrics: Mapping[str, Metric]) -> None:
        self._metrics = metrics

    def attach(self, engine: Engine) -> None:
        for name, metric in self._metrics.items():
            metric.attach(engine, name)
