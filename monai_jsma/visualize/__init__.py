# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Figures of where the network looked: attention maps, sampled patches, maps of slides, and objects for QuPath."""

from monai_jsma import _moved
from monai_jsma.visualize.area_outlines import by_class, draw_areas
from monai_jsma.visualize.attention import attention_image, draw_attention
from monai_jsma.visualize.background import read_background
from monai_jsma.visualize.canvas import figure_image, save_figure, save_pixels
from monai_jsma.visualize.captions import describe_answer, describe_place, name_class
from monai_jsma.visualize.card import draw_card
from monai_jsma.visualize.geojson import feature_collection, write_geojson
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import (
    draw_boxes,
    draw_strip,
    patch_boxes_image,
    patch_strip_image,
    rank_patches,
    strip_height,
)
from monai_jsma.visualize.record_choice import choose_records
from monai_jsma.visualize.record_figures import draw_record_card, open_record, record_boxes_image, record_figure
from monai_jsma.visualize.run_pictures import write_run_pictures, write_slide_map
from monai_jsma.visualize.slide_map import draw_slide_map, is_slide

__all__ = [
    "attention_image",
    "by_class",
    "choose_records",
    "describe_answer",
    "describe_place",
    "draw_areas",
    "draw_attention",
    "draw_boxes",
    "draw_card",
    "draw_record_card",
    "draw_slide_map",
    "draw_strip",
    "feature_collection",
    "figure_image",
    "is_slide",
    "name_class",
    "open_record",
    "overview_figure",
    "patch_boxes_image",
    "patch_strip_image",
    "rank_patches",
    "read_background",
    "record_boxes_image",
    "record_figure",
    "save_figure",
    "save_pixels",
    "strip_height",
    "write_geojson",
    "write_run_pictures",
    "write_slide_map",
]

_MOVED = {
    "drawn_patches": "monai_jsma.visualize.patches:rank_patches",
}
__getattr__ = _moved.lookup(__name__, _MOVED)
