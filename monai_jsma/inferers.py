# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a trained network is asked: by which sampler, and with which seed."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Never

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import PatchError
from monai_jsma.networks import Draws, Sampler
from monai_jsma.networks.removed_options import refuse_removed_options

__all__ = ["JSMAInferer"]


class JSMAInferer(Inferer):
    """Calls a network with a sampler.

    Args:
        sampler: sampler of the evaluation, such as ``TopK(k)``, ``AllPatches()``, ``Draws(k, repeats)`` or
            ``Certified()``; None leaves the choice to the network.
        seed: random seed of whatever is drawn, which then does not depend on what was predicted before. With ``Draws``
            each image is predicted on its own: its draws depend on the seed, the name of its file and its place in it,
            but neither on its batch nor on the file's folder.

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
        if self.seed is None or not isinstance(pyramids, PyramidBatch):
            return network(inputs, *args, **kwargs)

        outputs: list[Any] = []
        errors: dict[int, Exception] = {}
        for group in self._group(len(pyramids)):
            kwargs["pyramid"] = PyramidBatch(pyramids[i] for i in group)
            try:
                outputs.append(self._run_seeded(inputs[group], network, *args, **kwargs))
            except PatchError as error:
                for i, reason in error.errors.items():
                    errors[group[i]] = reason
        if errors:
            raise PatchError(errors)
        return _join_outputs(outputs)

    def _group(self, batch: int) -> list[list[int]]:
        """Numbers of the images that are predicted together."""
        if isinstance(self.sampler, Draws):
            return [[i] for i in range(batch)]
        return [list(range(batch))]

    def _run_seeded(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        devices = [inputs.device] if inputs.is_cuda else []
        with torch.random.fork_rng(devices):
            seed = self._seed_of(kwargs["pyramid"])
            torch.manual_seed(seed)
            return network(inputs, *args, **kwargs)

    def _seed_of(self, pyramids: PyramidBatch) -> int:
        places = []
        for pyramid in pyramids:
            name = os.path.basename(pyramid.path)
            places.append((name, pyramid.origin, pyramid.geometry.size))
        text = repr((self.seed, places))
        digest = hashlib.sha256(text.encode("ascii", "backslashreplace")).digest()
        return int.from_bytes(digest[:7])


def _join_outputs(outputs: Sequence[Any]) -> Any:
    """Outputs of parts of a batch as of all of it: cells that an image lacks have probability 0."""
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    joined = {}
    for key in outputs[0]:
        rows = [row for output in outputs for row in output[key]]
        padding = -torch.inf if key.startswith("log_") else 0.0
        joined[key] = pad_sequence(rows, batch_first=True, padding_value=padding)
    return joined
