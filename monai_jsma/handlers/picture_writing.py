# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures in TensorBoard's files, as JPEG."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from PIL import Image
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

__all__ = ["write_picture"]

_QUALITY = 88  # letters stay sharp, and pictures of tissue are a quarter of their PNG


def write_picture(writer: Any, tag: str, image: np.ndarray, *, step: int) -> None:
    """Write a picture to TensorBoard, as JPEG where the writer is PyTorch's, otherwise as the writer does it.

    Args:
        writer: PyTorch's ``SummaryWriter``, or one with the same ``add_image``.
        tag: tag of the picture.
        image: uint8 ``(height, width, 3)``.
        step: step of the picture.
    """
    file_writer = writer.file_writer if isinstance(writer, SummaryWriter) else None
    if file_writer is None:  # another writer, or one that was closed and is opened again by this
        writer.add_image(tag, image, step, dataformats="HWC")
        return
    height, width, _ = image.shape
    encoded = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=_encode_jpeg(image))
    file_writer.add_summary(Summary(value=[Summary.Value(tag=tag, image=encoded)]), step)


def _encode_jpeg(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=_QUALITY, subsampling=0)
    return stream.getvalue()
