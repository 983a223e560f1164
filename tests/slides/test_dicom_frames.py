# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Frames of DICOM levels: sparse levels are read, and wrong tables are refused before OpenSlide sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from dicom_files import decode_level, list_places, new_series, write_dicom
from pydicom import dcmread
from pydicom.encaps import encapsulate_extended, generate_frames
from slide_files import picture

from monai_jsma.slides import SlideError, inspect_slide, open_slide

PIXELS = picture(256, 256)
PLACES = list_places((256, 256))


def read_finest(path: Path) -> np.ndarray:
    info = inspect_slide(path)
    return open_slide(info).read(0, (0, 0), info.size)


def write_extended(path: Path, change) -> Path:
    """A level with a table of offsets of 64 bits, changed."""
    write_dicom(path, PIXELS, new_series())
    file = dcmread(path)
    frames = list(generate_frames(file.PixelData, number_of_frames=16))
    file.PixelData, table, lengths = encapsulate_extended(frames)
    offsets = np.frombuffer(table, "<u8").copy()
    file.ExtendedOffsetTable = change(offsets).tobytes()
    file.ExtendedOffsetTableLengths = lengths
    file["PixelData"].is_undefined_length = True
    file.save_as(path)
    return path


# ------------------------------------------------------------------------------------------------------------ sparse


def test_a_sparse_level_is_read_in_any_order_of_its_frames(tmp_path):
    series = new_series()
    write_dicom(tmp_path / "full.dcm", PIXELS, series, places=PLACES)
    write_dicom(tmp_path / "coarse.dcm", PIXELS[::4, ::4], series, mpp=2.0, places=[(0, 0)])
    info = inspect_slide(tmp_path)
    assert info.level_sizes == ((256, 256), (64, 64))
    np.testing.assert_array_equal(read_finest(tmp_path), decode_level(PIXELS))

    order = np.random.default_rng(0).permutation(16)
    mixed = np.empty_like(PIXELS)  # the frame that is written as number i belongs to the place number order[i]
    for number, place in enumerate(order):
        (row, col), (from_row, from_col) = PLACES[place], PLACES[number]
        mixed[row : row + 64, col : col + 64] = PIXELS[from_row : from_row + 64, from_col : from_col + 64]
    path = write_dicom(tmp_path / "mixed" / "a.dcm", PIXELS, new_series(), places=[PLACES[place] for place in order])
    np.testing.assert_array_equal(read_finest(path), decode_level(mixed))


def test_places_without_a_frame_are_white(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), places=PLACES[:8], frames=slice(8))
    pixels = read_finest(path)
    np.testing.assert_array_equal(pixels[:128], decode_level(PIXELS)[:128])
    assert (pixels[128:] == 255).all()


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (PLACES[:5], "states the places of 5 of 16 frames"),
        (PLACES * 2, "states the places of 32 of 16 frames"),
        ([*PLACES[:15], (256, 0)], "states a frame at row 256, column 0, where none can be"),
        ([*PLACES[:15], (0, -64)], "states a frame at row 0, column -64, where none can be"),
        ([*PLACES[:15], (3, 0)], "states a frame at row 3, column 0, where none can be"),
        ([*PLACES[:15], PLACES[2]], "has several frames in one place, but a slide with one optical path"),
    ],
)
def test_places_of_frames_that_cannot_be(tmp_path, places, message):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), places=places)
    with pytest.raises(SlideError, match=rf"a\.dcm: it {message}"):
        inspect_slide(path)


def test_a_frame_without_a_place(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), places=PLACES)
    file = dcmread(path)
    del file.PerFrameFunctionalGroupsSequence[3].PlanePositionSlideSequence
    file.save_as(path)
    with pytest.raises(SlideError, match="states the places of 15 of 16 frames"):
        inspect_slide(path)
    del file.PerFrameFunctionalGroupsSequence
    file.save_as(path)
    with pytest.raises(SlideError, match="damaged .no PerFrameFunctionalGroupsSequence"):
        inspect_slide(path)


@pytest.mark.parametrize("sparse", [False, True])
def test_offsets_that_do_not_ascend(tmp_path, sparse):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), places=PLACES if sparse else ())
    content = bytearray(path.read_bytes())
    table = content.index(b"\xe0\x7f\x10\0OB") + 20
    offsets = np.frombuffer(content, "<u4", 16, table)  # the array changes the file's bytes
    offsets[[4, 5]] = offsets[[5, 4]]
    path.write_bytes(content)
    with pytest.raises(SlideError, match=r"the offsets of its frames do not ascend within the file"):
        inspect_slide(path)


# ------------------------------------------------------------------------------------------- tables and their absence


def test_a_level_without_a_table_of_offsets(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), has_table=False)
    np.testing.assert_array_equal(read_finest(path), decode_level(PIXELS))


def test_a_table_of_64_bits(tmp_path):
    path = write_extended(tmp_path / "a.dcm", lambda offsets: offsets)
    np.testing.assert_array_equal(read_finest(path), decode_level(PIXELS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda offsets: offsets[[0, 1, 2, 3, 5, 4, *range(6, 16)]], "offsets of its frames do not ascend"),
        (lambda offsets: np.where(offsets == offsets[5], 2**60, offsets), "offsets of its frames do not ascend"),
        (np.zeros_like, "offsets of its frames do not ascend"),
        (lambda offsets: offsets[:-1], "table of offsets is not one of 16 frames"),
    ],
)
def test_a_wrong_table_of_64_bits(tmp_path, change, message):
    """OpenSlide 4.0.1 reads beyond its memory."""
    path = write_extended(tmp_path / "a.dcm", change)
    with pytest.raises(SlideError, match=message):
        inspect_slide(path)


# --------------------------------------------------------------------------------------- what the header says of them


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"DimensionOrganizationType": "3D"}, "its DimensionOrganizationType is 3D, neither TILED_FULL nor"),
        ({"DimensionOrganizationType": ""}, "its DimensionOrganizationType is not stated, neither"),
        ({"NumberOfFrames": -1}, "its NumberOfFrames is -1; copy the file again"),
        ({"Rows": 0}, "its frames have 0 x 64 pixels; copy"),
        ({"NumberOfFrames": 32}, "it has 32 frames in 16 places, but a slide with one optical path"),
    ],
)
def test_frames_that_are_no_grid(tmp_path, attributes, message):
    """OpenSlide 4.0.1 ends the process on some, and shows the first of several optical paths."""
    attributes = {"NumberOfOpticalPaths": None, "TotalPixelMatrixFocalPlanes": None, **attributes}
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), has_table=False, **attributes)
    with pytest.raises(SlideError, match=rf"a\.dcm: {message}"):
        inspect_slide(path)


@pytest.mark.parametrize(
    "kind", [("ORIGINAL", "VOLUME", "PRIMARY", "NONE"), ("ORIGINAL", "PRIMARY", "LABEL", "VOLUME")]
)
def test_a_level_that_openslide_leaves_out_is_missed(tmp_path, kind):
    """By the sizes that the files of the series state; without it the slide were coarser without a word."""
    series = new_series()
    coarse = write_dicom(tmp_path / "coarse.dcm", PIXELS[::4, ::4], series, mpp=2.0)
    write_dicom(tmp_path / "fine.dcm", PIXELS, series, kind=kind)
    with pytest.raises(SlideError, match=r"coarse\.dcm: OpenSlide finds levels of \(\(64, 64\),\), but the files"):
        inspect_slide(coarse)
