# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Geometry, readers, pyramids and datalists."""

from __future__ import annotations

from .annotations import read_annotations
from .automatic import automatic_magnifications
from .bach import bach_datalist
from .balanced import BalancedSampler
from .canvas import SyntheticPicture
from .cohort import Cohort, gather
from .datalist import class_names, load_datalist, save_datalist
from .digits import make_digit_picture
from .failures import FailedRegion, PatchError, PredictionDataset, collate_readable
from .feature_store import FeatureStore
from .files import file_sha256
from .folder import folder_datalist
from .geometry import Box, GridCell, PatchGeometry, grid_size, patch_start
from .gleason import RegionSettings, class_mapping
from .groups import check_groups, group_of
from .magnification import Magnification, sorted_magnifications, to_mpp
from .orientation import ORIENTATIONS, orient, oriented_size, stored_cell
from .pyramid import Pyramid
from .pyramid_batch import PyramidBatch
from .readers import ArrayReader, CuCIMReader, OpenSlideReader, Reader, TiffReader, open_reader, read_picture
from .regions import Area, Region, choose_balanced, place_regions
from .resample import area_resample
from .shuffled import shuffle_labels
from .slides import SlideError, SlideInfo, inspect_slide
from .split import fold_sides, hold_out, split_by_group
from .stain import StainMap
from .synthetic import make_dataset, make_picture
from .tensor_pyramid import TensorPyramidBatch
from .tiled import tile_picture
from .tissue import TissueRegion, tissue_mask, tissue_regions
from .verify import Fault, verify_datalist
from .whole_slides import Unread, whole_slide_items

__all__ = [
    "ORIENTATIONS",
    "Area",
    "ArrayReader",
    "BalancedSampler",
    "Box",
    "FailedRegion",
    "Fault",
    "FeatureStore",
    "GridCell",
    "Cohort",
    "CuCIMReader",
    "Magnification",
    "OpenSlideReader",
    "PatchError",
    "PatchGeometry",
    "PredictionDataset",
    "Pyramid",
    "PyramidBatch",
    "Reader",
    "Region",
    "RegionSettings",
    "SlideError",
    "SlideInfo",
    "StainMap",
    "SyntheticPicture",
    "TensorPyramidBatch",
    "TiffReader",
    "TissueRegion",
    "Unread",
    "area_resample",
    "automatic_magnifications",
    "bach_datalist",
    "check_groups",
    "choose_balanced",
    "class_mapping",
    "class_names",
    "collate_readable",
    "file_sha256",
    "fold_sides",
    "folder_datalist",
    "gather",
    "grid_size",
    "group_of",
    "hold_out",
    "inspect_slide",
    "load_datalist",
    "make_dataset",
    "make_digit_picture",
    "make_picture",
    "open_reader",
    "orient",
    "oriented_size",
    "patch_start",
    "place_regions",
    "read_annotations",
    "read_picture",
    "save_datalist",
    "shuffle_labels",
    "sorted_magnifications",
    "split_by_group",
    "stored_cell",
    "tile_picture",
    "tissue_mask",
    "tissue_regions",
    "to_mpp",
    "verify_datalist",
    "whole_slide_items",
]
