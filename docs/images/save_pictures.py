# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Save the first picture of a TensorBoard log, as it was last, for the documentation: LOG FOLDER."""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

_WIDTH = 640  # pixels


def save_picture(log: Path, folder: Path) -> Path:
    """Save the first attention picture of a log as ``attention.jpg``.

    Args:
        log: folder of the log.
        folder: folder of the file.
    """
    events = EventAccumulator(str(log)).Reload()
    tags = [tag for tag in events.Tags()["images"] if tag.startswith("attention/")]
    last = events.Images(min(tags))[-1]
    picture = Image.open(io.BytesIO(last.encoded_image_string))
    height = round(picture.height * _WIDTH / picture.width)
    path = folder / "attention.jpg"
    picture.resize((_WIDTH, height), Image.Resampling.LANCZOS).save(path, quality=90)
    return path


if __name__ == "__main__":
    print(save_picture(Path(sys.argv[1]), Path(sys.argv[2])))
