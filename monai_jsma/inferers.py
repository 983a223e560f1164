# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a trained network is asked: by which sampler, and with which seed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Never

import torch
from monai.inferers import Inferer
from torch import Tensor

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import BatchError
from monai_jsma.data.seeds import derive_seed
from monai_jsma.networks import Sampler
from monai_jsma.networks.removed_options import refuse_removed_options

__all__ = ["Bfloat16Inferer", "JSMAInferer"]


class JSMAInferer(Inferer):
    """Calls a network with a sampler.

    Args:
        sampler: sampler of the evaluation, such as ``TopK(k)``, ``AllPatches()``, ``Draws(k, repeats)``,
            ``Certified()`` or ``Confident(0.99)``; None leaves the choice to the network.
        seed: random seed of whatever is drawn, which then does not depend on what was predicted before. With a sampler
            that draws at random each image is predicted on its own: its draws depend on the seed, the name of its file
            and its place in it, but neither on its batch nor on the file's folder. Whole images, given without
            pyramids, have no file: the draws of each depend on the seed alone.

    Raises:
        ValueError: if ``sampler`` is none.
    """

    def __init__(self, sampler: Sampler | None = None, *, seed: int | None = None, **_old_options: Never) -> None:
        refuse_removed_options(_old_options)
        if not isinstance(sampler, Sampler | None):
            raise ValueError(
                f"JSMAInferer takes a sampler such as TopK(5) or AllPatches(), but got {sampler!r}; "
                "see monai_jsma.networks.samplers."
            )
        self.sampler = sampler
        self.seed = seed

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network on ``(batch, 3, height, width)``; further arguments go to its ``forward``."""
        kwargs["sampler"] = self.sampler
        pyramids = kwargs.get("pyramid")
        can_be_split = pyramids is None or isinstance(pyramids, PyramidBatch)
        if self.seed is None or not can_be_split or len(inputs) == 0 or not self._draws_at_random(network):
            return network(inputs, *args, **kwargs)

        outputs: list[Any] = []
        errors: dict[type[BatchError], dict[int, Exception]] = {}
        for i in range(len(inputs)):
            if pyramids is not None:
                kwargs["pyramid"] = PyramidBatch([pyramids[i]])
            try:
                outputs.append(self._run_seeded(inputs[i : i + 1], network, *args, **kwargs))
            except BatchError as error:
                errors.setdefault(type(error), {})[i] = error.errors[0]
        for kind, reasons in errors.items():
            raise kind(reasons)  # those of another kind come when the batch is predicted without these images
        return _join_outputs(outputs)

    def _draws_at_random(self, network: Callable[..., Any]) -> bool:
        sampler = self.sampler
        if sampler is None:
            module = getattr(network, "module", network)  # without what distributes it
            sampler = getattr(module, "evaluation_sampler", None)
        return sampler is None or sampler.draws_at_random

    def _run_seeded(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        devices = [inputs.device] if inputs.is_cuda else []
        with torch.random.fork_rng(devices):
            assert self.seed is not None
            pyramids = kwargs.get("pyramid") or ()
            seed = derive_seed(self.seed, pyramids)
            torch.manual_seed(seed)
            return network(inputs, *args, **kwargs)


class Bfloat16Inferer(Inferer):
    """Asks another inferer with mixed precision on a CPU: convolutions and products of matrices in bfloat16.

    MONAI's engines know mixed precision on GPUs alone; :class:`~monai_jsma.engines.JSMATrainer` and
    :class:`~monai_jsma.engines.JSMAEvaluator` take this one for ``amp=True`` on a CPU. bfloat16 has the range of
    float32, so that no gradient needs scaling. Weights, attention, loss and what is kept of features stay float32.

    Args:
        inferer: inferer that calls the network.
    """

    def __init__(self, inferer: Inferer) -> None:
        self.inferer = inferer

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network on ``(batch, 3, height, width)``; further arguments go to the inferer."""
        with torch.autocast("cpu", torch.bfloat16):
            return self.inferer(inputs, network, *args, **kwargs)


def _join_outputs(outputs: Sequence[Any]) -> Any:
    """Outputs of parts of a batch as of all of it: cells that an image lacks have probability 0."""
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    joined = {}
    for key, first in outputs[0].items():
        if first.ndim == 1:  # one number for each image
            joined[key] = torch.cat([output[key] for output in outputs])
            continue
        rows = [row for output in outputs for row in output[key]]
        padding = -torch.inf if key.startswith("log_") else 0.0
        joined[key] = _stack_padded(rows, padding)
    return joined


def _stack_padded(rows: Sequence[Tensor], padding: float) -> Tensor:
    """Tensors of equally many dimensions but different sizes as one, padded at the ends."""
    largest = [max(sizes) for sizes in zip(*(row.shape for row in rows))]
    stacked = rows[0].new_full((len(rows), *largest), padding)
    for number, row in enumerate(rows):
        place = tuple(slice(size) for size in row.shape)
        stacked[number][place] = row
    return stacked
