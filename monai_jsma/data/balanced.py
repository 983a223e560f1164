# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Batches with the same number of images of each class, so that patches without information cancel.

Until the attention knows where to look, nearly all patches of a bag look alike in every class. What the network learns
from them is which class is in excess in the batch: noise, in which the few informative patches are lost. With the same
number of images of each class this noise is zero.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
import torch.distributed as dist
from torch.utils.data.distributed import DistributedSampler

__all__ = ["BalancedSampler"]


class BalancedSampler(DistributedSampler):
    """Indices in rounds of one image of each class, so that in any batch the classes differ by one image at most.

    An epoch has as many rounds as it takes to be no shorter than the list. A class with more images is drawn from
    without repetition; the images of a class with fewer come several times. Which images, and their order, changes with
    the epoch (``set_epoch``, as MONAI's trainer calls it) and depends on nothing else but the seed. With several
    processes each takes its share of every round, and what they take together is balanced.

    Args:
        labels: class of each image.
        seed: random seed, the same in all processes.
        num_replicas: number of processes; by default those of the process group, or 1.
        rank: rank of this process; by default that in the process group, or 0.

    Raises:
        ValueError: if there are no labels, one is missing, or images have several.

    Example::

        >>> sampler = BalancedSampler([0, 0, 0, 0, 1, 2])
        >>> [len(set(batch)) for batch in torch.tensor([0, 0, 0, 0, 1, 2])[list(sampler)].view(-1, 3).tolist()]
        [3, 3]
    """

    def __init__(
        self, labels: Sequence[int], *, seed: int = 0, num_replicas: int | None = None, rank: int | None = None
    ) -> None:
        if any(isinstance(label, Sequence) and not isinstance(label, str) for label in labels):
            raise ValueError(
                "balanced batches need one class of each image, but here images have lists of them (multi-label): set "
                "'balanced' to false."
            )
        if not labels or None in labels:
            raise ValueError(f"balanced batches need images that all have a label, but got {list(labels)[:10]}.")
        all_labels = torch.tensor(labels)
        self.classes = [torch.nonzero(all_labels == label).flatten() for label in sorted(set(labels))]
        self.rounds = math.ceil(len(labels) / len(self.classes))
        if not dist.is_initialized():
            num_replicas = 1 if num_replicas is None else num_replicas
            rank = 0 if rank is None else rank
        length = self.rounds * len(self.classes)
        super().__init__(range(length), num_replicas=num_replicas, rank=rank, seed=seed)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[int]:
        """Indices of this process for the epoch."""
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        columns = [self._shuffle(members, generator) for members in self.classes]
        order = torch.randperm(len(columns), generator=generator)
        indices = torch.stack(columns, dim=1)[:, order].flatten()  # (rounds, classes), row by row
        # An epoch that the processes do not divide goes on from its beginning.
        positions = torch.arange(self.rank, self.total_size, self.num_replicas) % len(indices)
        return iter(indices[positions].tolist())

    def _shuffle(self, members: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Indices of one class in random order, repeated until there is one for each round."""
        repeats = math.ceil(self.rounds / len(members))
        shuffled = [members[torch.randperm(len(members), generator=generator)] for _ in range(repeats)]
        return torch.cat(shuffled)[: self.rounds]
