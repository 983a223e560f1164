# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a trained network is asked: how many patches, and whether the draw is repeated."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.data.batch import PyramidBatch
from monai_jsma.data.prediction_dataset import PatchError

__all__ = ["JSMAInferer"]


class JSMAInferer(Inferer):
    """Calls the network with a number of patches; in training the network draws as it was built.

    Args:
        num_patches: patches of each picture, ``"all"`` (Eq. 1), or ``"certified"``: as few as make the label of all
            certain; by default as in training.
        draws: 0 takes the patches of highest attention; R > 0 draws ``num_patches`` R times, and gives the mean
            probability and those of each draw.
        seed: of whatever is drawn, which then does not depend on what was predicted before. With ``draws`` each picture
            is asked on its own: its draws depend on the seed, the name of its file and its place in it, but neither on
            its batch nor on the file's folder.
        max_patches: of each picture if ``"certified"``; None for no cap.
        certified_chunk: patches of each picture that ``"certified"`` reads at once. The fewest are read with 1; more
            need fewer passes.

    Raises:
        ValueError: for a value that is not offered, or that would have no effect.
    """

    def __init__(
        self,
        num_patches: int | str | None = None,
        draws: int = 0,
        seed: int | None = None,
        max_patches: int | None = None,
        certified_chunk: int = 1,
    ) -> None:
        named, certified = num_patches in ("all", "certified"), num_patches == "certified"
        if not (named or num_patches is None or isinstance(num_patches, int) and num_patches > 0):
            raise ValueError(
                f"num_patches must be a positive number, 'all', 'certified' or None, but got {num_patches!r}."
            )
        if draws < 0 or named and draws:
            raise ValueError(
                f"draws must not be negative, and 0 if num_patches is 'all' or 'certified', but got {draws} with "
                f"num_patches {num_patches!r}."
            )
        if not certified and max_patches is not None:
            raise ValueError(f"max_patches is the cap of num_patches 'certified', which is {num_patches!r}.")
        self.num_patches, self.draws, self.seed = num_patches, draws, seed
        self.stopping = {"max_patches": max_patches, "certified_chunk": certified_chunk} if certified else {}

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network on ``(batch, 3, height, width)``; further arguments go to its ``forward``."""
        kwargs |= {"num_patches": self.num_patches, "draws": self.draws, **self.stopping}
        pyramids = kwargs.get("pyramid")
        if self.seed is None or not isinstance(pyramids, PyramidBatch):
            return network(inputs, *args, **kwargs)
        numbers = range(len(pyramids))
        outputs: list[Any] = []
        errors: dict[int, Exception] = {}
        for group in [[i] for i in numbers] if self.draws else [list(numbers)]:
            asked = PyramidBatch(pyramids[i] for i in group)
            with torch.random.fork_rng([inputs.device] if inputs.is_cuda else []):
                torch.manual_seed(self._seed_of(asked))
                try:
                    outputs.append(network(inputs[group], *args, **{**kwargs, "pyramid": asked}))
                except PatchError as error:
                    errors |= {group[i]: reason for i, reason in error.errors.items()}
        if errors:
            raise PatchError(errors)
        return _joined(outputs)

    def _seed_of(self, pyramids: PyramidBatch) -> int:
        places = repr((self.seed, [(os.path.basename(p.path), p.origin, p.geometry.size) for p in pyramids]))
        return int.from_bytes(hashlib.sha256(places.encode("ascii", "backslashreplace")).digest()[:7])


def _joined(outputs: Sequence[Any]) -> Any:
    """Outputs of parts of a batch as of all of it: cells that a picture lacks have probability 0."""
    if len(outputs) == 1:
        return outputs[0]
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    pad = {key: -torch.inf if key.startswith("log_") else 0.0 for key in outputs[0]}
    return {key: pad_sequence([row for o in outputs for row in o[key]], True, value) for key, value in pad.items()}
