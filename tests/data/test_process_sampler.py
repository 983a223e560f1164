# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Shares of a data set for several processes: all images once, and a clear error if a process would have none."""

from __future__ import annotations

import pytest

from monai_jsma.data import ProcessSampler


def test_each_image_is_in_one_share():
    shares = [
        list(ProcessSampler(range(5), num_replicas=2, rank=rank, even_divisible=False, shuffle=False))
        for rank in range(2)
    ]
    assert sorted(shares[0] + shares[1]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("num_images", [1, 2])
@pytest.mark.parametrize("even_divisible", [True, False])
def test_more_processes_than_images_are_refused(num_images, even_divisible):
    message = rf"^{num_images} images cannot be divided among 3 processes.*={num_images}'\.$"
    with pytest.raises(ValueError, match=message):
        ProcessSampler(range(num_images), num_replicas=3, rank=0, even_divisible=even_divisible)
