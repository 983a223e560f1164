# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Shares of a data set for several processes, each of which needs at least one image."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

import torch.distributed as dist
from monai.data import DistributedSampler

__all__ = ["ProcessSampler"]


class ProcessSampler(DistributedSampler):
    """:class:`monai.data.DistributedSampler`, which says what to do if there are more processes than images.

    Args:
        dataset: data set to divide.
        num_replicas: number of processes; by default those of the process group.
        options: further arguments of MONAI's class.

    Raises:
        ValueError: if a process would have no image.
    """

    def __init__(self, dataset: Sized, *, num_replicas: int | None = None, **options: Any) -> None:
        num_processes = dist.get_world_size() if num_replicas is None else num_replicas
        num_images = len(dataset)
        if num_images < num_processes:
            raise ValueError(
                f"{num_images} images cannot be divided among {num_processes} processes, each of which needs one: "
                f"start at most {num_images}, such as by 'torchrun --nproc_per_node={num_images}'."
            )
        super().__init__(dataset, num_replicas=num_replicas, **options)  # type: ignore[arg-type]
