# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Lists of images with labels and groups: how they are made, checked and split."""

from __future__ import annotations

from monai_jsma._io import Fault

from .annotations import Annotations, parse_annotations, read_annotations
from .bach import bach_datalist
from .folder import folder_datalist
from .mosaic import MosaicSettings
from .mosaic_datalist import MosaicOutput, make_mosaics
from .prostate import Cohort, RegionSettings, class_mapping, gather_cohort
from .regions import Area, Region, choose_balanced, place_regions
from .schema import Datalist, class_names, load_datalist, make_items, save_datalist
from .splits import check_groups, group_of, hold_out, make_splits, shuffle_labels, split_by_group
from .synthetic import SyntheticPicture, make_dataset, make_digit_picture, make_picture
from .synthetic_slides import SlideSettings, SyntheticSlide, make_slide, make_slides
from .tissue import TissueRegion, find_tissue, tissue_mask, tissue_regions, whole_slide_items
from .verify import verify_datalist

__all__ = [
    "Annotations",
    "Area",
    "Cohort",
    "Datalist",
    "Fault",
    "MosaicOutput",
    "MosaicSettings",
    "Region",
    "RegionSettings",
    "SlideSettings",
    "SyntheticPicture",
    "SyntheticSlide",
    "TissueRegion",
    "bach_datalist",
    "check_groups",
    "choose_balanced",
    "class_mapping",
    "class_names",
    "find_tissue",
    "folder_datalist",
    "gather_cohort",
    "group_of",
    "hold_out",
    "load_datalist",
    "make_dataset",
    "make_digit_picture",
    "make_items",
    "make_mosaics",
    "make_picture",
    "make_slide",
    "make_slides",
    "make_splits",
    "parse_annotations",
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
