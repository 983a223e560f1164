# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Ignite handlers: attention images, scalars, checkpoints, validation, the course of a training, predictions."""

from __future__ import annotations

from .attention_images import AttentionImageHandler, AttentionImageSaver, picture_name
from .checkpoints import (
    BestModelSaver,
    EarlyStopper,
    TrainingStateLoader,
    TrainingStateSaver,
    checkpoint_file,
)
from .num_patches import NumPatchesScheduler
from .patch_counter import PatchCounter
from .picture_choice import choose_pictures
from .prediction_pictures import PredictionPictures
from .prediction_saver import PredictionSaver
from .scalars import ScalarHandler, group_tag
from .stagewise_start import StagewiseStart
from .unfreezing import EncoderUnfreezer
from .validation import EpochValidationHandler

__all__ = [
    "AttentionImageHandler",
    "AttentionImageSaver",
    "BestModelSaver",
    "EarlyStopper",
    "EncoderUnfreezer",
    "EpochValidationHandler",
    "NumPatchesScheduler",
    "PatchCounter",
    "PredictionPictures",
    "PredictionSaver",
    "ScalarHandler",
    "StagewiseStart",
    "TrainingStateLoader",
    "TrainingStateSaver",
    "checkpoint_file",
    "choose_pictures",
    "group_tag",
    "picture_name",
]
