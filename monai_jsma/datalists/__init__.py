# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of images with labels and groups: how they are made, checked and split."""

from __future__ import annotations

from .annotations import read_annotations
from .bach import bach_datalist
from .folder import folder_datalist
from .groups import check_groups, group_of
from .prostate import Cohort, RegionSettings, class_mapping, gather
from .regions import Area, Region, choose_balanced, place_regions
from .schema import class_names, load_datalist, save_datalist
from .shuffled import shuffle_labels
from .splits import fold_sides, hold_out, split_by_group
from .synthetic import SyntheticPicture, make_dataset, make_digit_picture, make_picture
from .tissue import TissueRegion, tissue_mask, tissue_regions
from .verify import Fault, verify_datalist
from .whole_slides import Unread, whole_slide_items

__all__ = [
    "Area",
    "Cohort",
    "Fault",
    "Region",
    "RegionSettings",
    "SyntheticPicture",
    "TissueRegion",
    "Unread",
    "bach_datalist",
    "check_groups",
    "choose_balanced",
    "class_mapping",
    "class_names",
    "fold_sides",
    "folder_datalist",
    "gather",
    "group_of",
    "hold_out",
    "load_datalist",
    "make_dataset",
    "make_digit_picture",
    "make_picture",
    "place_regions",
    "read_annotations",
    "save_datalist",
    "shuffle_labels",
    "split_by_group",
    "tissue_mask",
    "tissue_regions",
    "verify_datalist",
    "whole_slide_items",
]
