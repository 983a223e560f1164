# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""How a trained network is asked: how many patches, and whether the draw is repeated."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from monai_jsma.data.failures import PatchError
from monai_jsma.data.pyramid_batch import PyramidBatch

__all__ = ["JSMAInferer"]


class JSMAInferer(Inferer):
    """Calls the network with a number of patches; in training the network draws as it was built.

    Args:
        num_patches: patches of each picture, or ``"all"`` (Eq. 1); by default as in training.
        draws: 0 takes the patches of highest attention; R > 0 draws R times and gives the mean probability and its
            spread.
        seed: of whatever is drawn, which then does not depend on what was predicted before. With ``draws`` each picture
            is asked on its own: its draws depend on the seed and its place alone, not on its batch either.
    """

    def __init__(self, num_patches: int | str | None = None, draws: int = 0, seed: int | None = None) -> None:
        if isinstance(num_patches, str) and num_patches != "all" or isinstance(num_patches, int) and num_patches < 1:
            raise ValueError(f"num_patches must be a positive number, 'all' or None, but got {num_patches!r}.")
        if draws < 0:
            raise ValueError(f"draws must not be negative, but got {draws}.")
        self.num_patches, self.draws, self.seed = num_patches, draws, seed

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run the network on ``(batch, 3, height, width)``; further arguments go to its ``forward``."""
        kwargs |= {"num_patches": self.num_patches, "draws": self.draws}
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
        places = repr((self.seed, [(p.path, p.origin, p.geometry.size) for p in pyramids]))
        return int.from_bytes(hashlib.sha256(places.encode("ascii", "backslashreplace")).digest()[:7])


def _joined(outputs: Sequence[Any]) -> Any:
    """Outputs of parts of a batch as of all of it: cells that a picture lacks have probability 0."""
    if isinstance(outputs[0], Tensor):
        return torch.cat(list(outputs))
    pad = {key: -torch.inf if key.startswith("log_") else 0.0 for key in outputs[0]}
    return {key: pad_sequence([row for o in outputs for row in o[key]], True, value) for key, value in pad.items()}
