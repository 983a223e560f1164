# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What a network reads: pyramids of images, batches of them, and data sets that go on when a file fails.

A pyramid needs no PyTorch; the others are loaded when they are first used, so that an exported network reads without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from monai_jsma import _moved

from .pyramid import Pyramid
from .stain import StainMap, StainNormalization

if TYPE_CHECKING:
    from .balanced import BalancedSampler
    from .batch import PyramidBatch
    from .prediction_dataset import NotFiniteError, PatchError, PredictionDataset, collate_readable
    from .process_sampler import ProcessSampler
    from .tensor_batch import TensorPyramidBatch

__all__ = [
    "BalancedSampler",
    "NotFiniteError",
    "PatchError",
    "PredictionDataset",
    "ProcessSampler",
    "Pyramid",
    "PyramidBatch",
    "StainMap",
    "StainNormalization",
    "TensorPyramidBatch",
    "collate_readable",
]

_WITH_TORCH = {
    "BalancedSampler": "monai_jsma.data.balanced",
    "NotFiniteError": "monai_jsma.data.prediction_dataset",
    "PatchError": "monai_jsma.data.prediction_dataset",
    "PredictionDataset": "monai_jsma.data.prediction_dataset",
    "ProcessSampler": "monai_jsma.data.process_sampler",
    "PyramidBatch": "monai_jsma.data.batch",
    "TensorPyramidBatch": "monai_jsma.data.tensor_batch",
    "collate_readable": "monai_jsma.data.prediction_dataset",
}
_MOVED = {
    "Area": "monai_jsma.datalists.regions",
    "ArrayReader": "monai_jsma.slides.base",
    "Box": "monai_jsma.geometry",
    "Cohort": "monai_jsma.datalists.prostate",
    "CuCIMReader": "monai_jsma.slides.cucim_reader",
    "FailedRegion": "monai_jsma._io:Fault",
    "Fault": "monai_jsma._io",
    "FeatureStore": "monai_jsma.networks.feature_cache",
    "GridCell": "monai_jsma.geometry",
    "Magnification": "monai_jsma.geometry",
    "ORIENTATIONS": "monai_jsma.geometry",
    "OpenSlideReader": "monai_jsma.slides.openslide_reader",
    "PatchGeometry": "monai_jsma.geometry",
    "Reader": "monai_jsma.slides.base",
    "Region": "monai_jsma.datalists.regions",
    "RegionSettings": "monai_jsma.datalists.prostate",
    "SlideError": "monai_jsma.slides.errors",
    "SlideInfo": "monai_jsma.slides.base",
    "SyntheticPicture": "monai_jsma.datalists.synthetic",
    "TiffReader": "monai_jsma.slides.tifffile_reader",
    "TissueRegion": "monai_jsma.datalists.tissue",
    "Unread": "monai_jsma._io:Fault",
    "area_resample": "monai_jsma.slides.resample",
    "automatic_magnifications": "monai_jsma.geometry",
    "bach_datalist": "monai_jsma.datalists.bach",
    "check_groups": "monai_jsma.datalists.splits",
    "choose_balanced": "monai_jsma.datalists.regions",
    "class_mapping": "monai_jsma.datalists.prostate",
    "class_names": "monai_jsma.datalists.schema",
    "file_sha256": "monai_jsma._io",
    "fold_sides": "monai_jsma.datalists.splits:make_splits",
    "folder_datalist": "monai_jsma.datalists.folder",
    "gather": "monai_jsma.datalists.prostate:gather_cohort",
    "grid_size": "monai_jsma.geometry",
    "group_of": "monai_jsma.datalists.splits",
    "hold_out": "monai_jsma.datalists.splits",
    "inspect_slide": "monai_jsma.slides.open",
    "load_datalist": "monai_jsma.datalists.schema",
    "make_dataset": "monai_jsma.datalists.synthetic",
    "make_digit_picture": "monai_jsma.datalists.synthetic",
    "make_picture": "monai_jsma.datalists.synthetic",
    "open_reader": "monai_jsma.slides.open:open_slide",
    "orient": "monai_jsma.geometry",
    "oriented_size": "monai_jsma.geometry",
    "patch_start": "monai_jsma.geometry",
    "place_regions": "monai_jsma.datalists.regions",
    "read_annotations": "monai_jsma.datalists.annotations",
    "read_picture": "monai_jsma.slides.image_reader:read_image",
    "save_datalist": "monai_jsma.datalists.schema",
    "shuffle_labels": "monai_jsma.datalists.splits",
    "sorted_magnifications": "monai_jsma.geometry",
    "split_by_group": "monai_jsma.datalists.splits",
    "stored_cell": "monai_jsma.geometry",
    "tile_picture": "monai_jsma.slides.convert:tile_image",
    "tissue_mask": "monai_jsma.datalists.tissue",
    "tissue_regions": "monai_jsma.datalists.tissue",
    "to_mpp": "monai_jsma.geometry",
    "verify_datalist": "monai_jsma.datalists.verify",
    "whole_slide_items": "monai_jsma.datalists.tissue",
}
__getattr__ = _moved.lookup(__name__, {**_MOVED, **_WITH_TORCH})
