# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pictures of where the network looked: attention maps, sampled patches, and one page with all of it."""

from monai_jsma.visualize.attention import attention_image, draw_attention
from monai_jsma.visualize.canvas import figure_image
from monai_jsma.visualize.overview import overview_figure
from monai_jsma.visualize.patches import (
    draw_boxes,
    draw_strip,
    drawn_patches,
    patch_boxes_image,
    patch_strip_image,
    strip_height,
)

__all__ = [
    "attention_image",
    "draw_attention",
    "draw_boxes",
    "draw_strip",
    "drawn_patches",
    "figure_image",
    "overview_figure",
    "patch_boxes_image",
    "patch_strip_image",
    "strip_height",
]
