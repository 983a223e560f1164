# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Batches that hold all classes alike, so that patches which tell nothing cancel.

Until the attention knows where to look, nearly all patches of a bag look alike in every class. What they teach is the
surplus of this or that class in the batch: noise, in which the few patches that tell the class are lost. With as many
pictures of each class it is zero.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch.utils.data.distributed import DistributedSampler

__all__ = ["BalancedSampler"]


class BalancedSampler(DistributedSampler):
    """Indices in rounds of one picture of each class, so that in any batch their numbers differ by one at most.

    An epoch has as many rounds as it takes to be no shorter than the list. Of a class with more pictures some rest, of
    one with fewer some come again; which, and the order, changes with the epoch (``set_epoch``, as MONAI's trainer
    calls it) and depends on nothing else but the seed. With several processes each takes its part of every round, and
    what they take together is balanced.

    Args:
        labels: class of each picture.
        seed: the same in all processes.
        num_replicas: number of processes; by default those of the process group, or 1.
        rank: of this process; likewise.

    Raises:
        ValueError: if there are no labels, or one is missing.

    Example::

        >>> sampler = BalancedSampler([0, 0, 0, 0, 1, 2])
        >>> [len(set(batch)) for batch in torch.tensor([0, 0, 0, 0, 1, 2])[list(sampler)].view(-1, 3).tolist()]
        [3, 3]
    """

    def __init__(
        self, labels: Sequence[int], seed: int = 0, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        if not labels or None in labels:
            raise ValueError(f"balanced batches need pictures that all have a label, but got {list(labels)[:10]}.")
        self.classes = [torch.tensor([i for i, y in enumerate(labels) if y == c]) for c in sorted(set(labels))]
        self.rounds = -(-len(labels) // len(self.classes))
        alone = not dist.is_initialized()
        super().__init__(
            range(self.rounds * len(self.classes)),  # type: ignore[arg-type]
            num_replicas=1 if alone and num_replicas is None else num_replicas,
            rank=0 if alone and rank is None else rank,
            seed=seed,
        )

    def __iter__(self) -> Iterator[int]:
        """Indices of this process for the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        columns = [self._shuffled(own, generator) for own in self.classes]
        order = torch.randperm(len(columns), generator=generator)
        indices = torch.stack(columns, dim=1)[:, order].flatten()
        where = torch.arange(self.rank, self.total_size, self.num_replicas) % len(indices)
        return iter(indices[where].tolist())

    def _shuffled(self, own: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        times = -(-self.rounds // len(own))
        return torch.cat([own[torch.randperm(len(own), generator=generator)] for _ in range(times)])[: self.rounds]
