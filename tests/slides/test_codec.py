# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The walk along the markers of a JPEG stream: whole streams pass, cut and foreign ones do not."""

from __future__ import annotations

from typing import Any

import pytest
from slide_files import encode_jpeg, picture

from monai_jsma.slides.codec import TileForm, check_jpeg, scan_jpeg

PIXELS = picture(90, 120)
PAGE = TileForm((90, 120), (90, 120), 8, 3)
OTHER = TileForm((64, 128), (64, 128), 8, 3)


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"quality": 5}, {"subsampling": 0}]
)
def test_whole_jpeg_streams_pass(options: dict[str, Any]) -> None:
    data = encode_jpeg(PIXELS, **options)
    assert scan_jpeg(data).size == (90, 120)
    assert scan_jpeg(data + b"\0junk").size == (90, 120)  # after the end anything may follow
    filled = data[:2] + b"\xff\xff" + data[2:]
    assert scan_jpeg(filled).size == (90, 120)
    header = check_jpeg(data, PAGE)
    assert header == scan_jpeg(data)
    assert header.data.count(b"\xff\xda") == 1
    assert data.startswith(header.data)
    with pytest.raises(ValueError, match="JPEG stream is 90 x 120 in a tile of 64 x 128"):
        check_jpeg(data, OTHER)


def test_no_cut_jpeg_stream_passes() -> None:
    for data in (encode_jpeg(PIXELS), encode_jpeg(PIXELS, progressive=True)):
        for size in range(0, len(data), 97):
            with pytest.raises(ValueError, match="JPEG"):
                scan_jpeg(data[:size])
            with pytest.raises(ValueError, match="JPEG"):
                check_jpeg(data[:size], PAGE, like=scan_jpeg(data))


def test_jpeg_stream_unlike_the_one_before_is_checked_in_full() -> None:
    small = check_jpeg(encode_jpeg(PIXELS), PAGE, like=scan_jpeg(encode_jpeg(PIXELS, quality=5)))
    assert small == scan_jpeg(encode_jpeg(PIXELS))
    with pytest.raises(ValueError, match="JPEG stream is 90 x 120 in a tile of 64 x 128"):
        check_jpeg(encode_jpeg(PIXELS), OTHER, like=scan_jpeg(encode_jpeg(PIXELS, quality=5)))
