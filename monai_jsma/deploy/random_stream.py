# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The random numbers that PyTorch draws on a CPU, without PyTorch."""

from __future__ import annotations

import numpy as np

__all__ = ["RandomStream"]

_MASK_32 = (1 << 32) - 1
_MASK_24 = np.uint64((1 << 24) - 1)  # digits of float32
_MASK_53 = np.uint64((1 << 53) - 1)  # digits of float64


class RandomStream:
    """PyTorch's generator of a CPU: of the same seed and in the same order of calls it gives the same numbers.

    Both are Mersenne twisters that are started in the same way; what is made of their words is repeated here, to the
    last bit of uniform numbers and to the rounding of a logarithm of exponential ones.

    Args:
        seed: seed as ``torch.manual_seed`` takes it.
    """

    def __init__(self, seed: int) -> None:
        started = np.random.RandomState(seed & _MASK_32)
        self._words = np.random.MT19937()
        self._words.state = started.get_state(legacy=False)  # type: ignore[assignment]

    def draw_uniform(self, *shape: int) -> np.ndarray:
        """As ``torch.rand(shape)``: float32 in [0, 1)."""
        words = self._words.random_raw(int(np.prod(shape)))
        numbers = (words & _MASK_24) / float(1 << 24)
        return numbers.astype(np.float32).reshape(shape)

    def draw_uniform_double(self, *shape: int) -> np.ndarray:
        """As ``torch.rand(shape, dtype=torch.float64)``: float64 in [0, 1)."""
        words = self._words.random_raw(2 * int(np.prod(shape))).reshape(-1, 2)
        high = words[:, 0] << np.uint64(32)
        numbers = ((high | words[:, 1]) & _MASK_53) / float(1 << 53)
        return numbers.reshape(shape)

    def draw_exponential(self, *shape: int) -> np.ndarray:
        """As ``torch.empty(shape).exponential_()``: float32, above 0 but for rounding."""
        uniform = self.draw_uniform_double(*shape)
        return (-np.log1p(-uniform)).astype(np.float32)

    def draw_gumbel(self, *shape: int) -> np.ndarray:
        """Noise whose largest of sums with log probabilities is a draw from them: float32."""
        smallest = np.finfo(np.float32).tiny
        return -np.log(np.maximum(self.draw_exponential(*shape), smallest))
