# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Headers and markers of stored tiles: whole streams of the right form pass, cut and foreign ones do not."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import imagecodecs
import numpy as np
import pytest
import tifffile
from corpus_files import retag, ycbcr_jpeg2000
from slide_files import encode_jpeg, needs_cucim, overwrite, picture, tile_range, write_pyramid

from monai_jsma.slides.codec import (
    TileForm,
    check_jpeg,
    check_stream,
    is_complete_jpeg,
    looks_unfinished,
    scan_jpeg,
)
from monai_jsma.slides.early_ends import describe_early_ends, sees_early_ends
from monai_jsma.slides.errors import SlideError
from monai_jsma.slides.open import inspect_slide, open_slide

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


# ------------------------------------------------------------------------------------- coded pixels that end too early

KINDS: list[dict[str, Any]] = [
    {"subsampling": 0},
    {"subsampling": 2},
    {"restart_marker_blocks": 3},
    {"progressive": True},
    {"quality": 5},
]


def end_early(data: bytes, lost: int) -> bytes:
    """A stream without the last bytes of its last scan."""
    begin = len(scan_jpeg(data).data)
    return data[: max(begin, len(data) - 2 - lost)].rstrip(b"\xff") + b"\xff\xd9"


@pytest.mark.parametrize("options", KINDS)
def test_complete_jpeg_streams_are_told_from_others(options: dict[str, Any]) -> None:
    for seed in range(20):
        data = encode_jpeg(picture(90, 120, seed), **options)
        assert is_complete_jpeg(data)
        assert is_complete_jpeg(data[:-2] + b"\0\1\2\3" + data[-2:])  # what is too much is no damage
        assert is_complete_jpeg(data[:-2] + b"\xff\xff" + data[-2:])  # nor are fill bytes
        for lost in (4, 8, 40, 200):
            assert not is_complete_jpeg(end_early(data, lost))


@pytest.mark.parametrize("piece", [0, 5, 10])
def test_a_piece_of_a_jpeg_stream_that_ends_early(piece: int) -> None:
    data = encode_jpeg(PIXELS, subsampling=0, restart_marker_blocks=15)
    header = scan_jpeg(data)
    assert header.has_restarts
    restarts = [match.start() for match in re.finditer(rb"\xff[\xd0-\xd7]", data) if match.start() > len(header.data)]
    end = restarts[piece]
    begin = restarts[piece - 1] + 2 if piece else len(header.data)
    short = data[: (begin + end) // 2].rstrip(b"\xff") + data[end:]
    assert not is_complete_jpeg(short)
    assert looks_unfinished(imagecodecs.jpeg8_decode(short), has_restarts=True)
    assert not looks_unfinished(imagecodecs.jpeg8_decode(data), has_restarts=True)


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 1}, {"subsampling": 2}])
def test_missing_pixels_are_seen_in_every_window_that_has_them(options: dict[str, Any]) -> None:
    """Whichever part is looked at: if a whole block of it is missing, its last pixel is gray."""
    data = encode_jpeg(PIXELS, **options)
    short = end_early(data, (len(data) - len(scan_jpeg(data).data)) // 2)
    pixels = imagecodecs.jpeg8_decode(short)
    is_gray = (pixels == 128).all(axis=2)
    assert 0.2 < is_gray.mean() < 0.8
    rng = np.random.default_rng(0)
    for _ in range(200):
        row, col = rng.integers(0, 60), rng.integers(0, 90)
        part = slice(row, row + rng.integers(17, 40)), slice(col, col + rng.integers(17, 40))
        blocks = is_gray[part][-17:, -17:]
        if blocks.all():
            assert looks_unfinished(pixels[part], has_restarts=False)
        if not is_gray[part].any():
            assert not looks_unfinished(pixels[part], has_restarts=False)


class Split(NamedTuple):
    """A JPEG stream and the tables that its page keeps for all tiles."""

    stream: bytes
    tables: bytes


def _split_tables(data: bytes) -> Split:
    """Take the Huffman tables out of a stream."""
    stream = data[:2]
    tables = data[:2]
    position = 2
    while data[position + 1] != 0xDA:
        length = int.from_bytes(data[position + 2 : position + 4])
        segment = data[position : position + 2 + length]
        if segment[1] == 0xC4:
            tables += segment
        else:
            stream += segment
        position += len(segment)
    return Split(stream + data[position:], tables + data[-2:])


def write_short_last_block(path: Path, *, is_followed: bool = False) -> str:
    """A slide of one tile that lacks the end of its last block only, which no decoder paints gray.

    ``is_followed`` leaves the rest of the tile behind its end marker, as changed bits would that look like one.
    """
    name = write_pyramid(path, [picture(64, 64)], tile=(64, 64), compression="jpeg", mpp=0.5)
    begin, size = tile_range(name, 0, 0)
    short = end_early(Path(name).read_bytes()[begin : begin + size], 3)
    overwrite(name, begin, short)
    if not is_followed:
        retag("TileByteCounts", len(short))(Path(name))
    return name


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile", "pil"])
def test_strict_reading_sees_every_early_end(tmp_path: Path, reader: str) -> None:
    path = write_short_last_block(tmp_path / "a.tif")
    if reader != "cucim":  # its decoder tells it anyway
        lax = inspect_slide(path, reader=reader)
        open_slide(lax).read(0, (0, 0), (64, 64))
    strict = inspect_slide(path, reader=reader, strict=True)
    with pytest.raises(SlideError, match=r"tile 0 of level 0 .* is damaged: the coded pixels of its JPEG stream end"):
        open_slide(strict).read(0, (0, 0), (64, 64))


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile", "openslide"])
def test_what_is_said_of_a_reader_and_early_ends_is_so(tmp_path: Path, reader: str) -> None:
    path = write_short_last_block(tmp_path / "a.tif")
    lax = open_slide(inspect_slide(path, reader=reader))
    if sees_early_ends(reader):
        with pytest.raises(SlideError, match="damaged"):
            lax.read(0, (0, 0), (64, 64))
    else:
        lax.read(0, (0, 0), (64, 64))
    assert ("verify DATALIST --read all" in describe_early_ends(reader)) != sees_early_ends(reader)


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
def test_a_gray_image_is_no_damage(tmp_path: Path, reader: str) -> None:
    gray = np.full((128, 192, 3), 128, np.uint8)
    path = write_pyramid(tmp_path / "a.tif", [gray], compression="jpeg", mpp=0.5)
    for strict in (False, True):
        info = inspect_slide(path, reader=reader, strict=strict)
        np.testing.assert_array_equal(open_slide(info).read(0, (0, 0), info.size), gray)


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile", "pil"])
def test_an_end_marker_among_the_coded_pixels(tmp_path: Path, reader: str) -> None:
    path = write_short_last_block(tmp_path / "a.tif", is_followed=True)
    with pytest.raises(
        SlideError, match=r"tile 0 of level 0 .* is damaged: the coded pixels of its JPEG stream end early"
    ):
        open_slide(inspect_slide(path, reader=reader)).read(0, (0, 0), (8, 8))


def test_what_may_follow_a_tile() -> None:
    data = encode_jpeg(PIXELS)
    for behind in (b"", b"\0", bytes(15)):  # writers fill tiles up
        assert check_jpeg(data + behind, PAGE) == scan_jpeg(data)
        with pytest.raises(ValueError, match="end early"):
            check_jpeg(end_early(data, 3) + behind + data[-5:], PAGE)
    assert check_jpeg(data + bytes(100), PAGE) == scan_jpeg(data)  # it is complete


@pytest.mark.parametrize("options", [{"subsampling": 0}, {"subsampling": 2}, {"restart_marker_blocks": 3}])
def test_a_lost_piece_of_a_jpeg_stream_is_seen(options: dict[str, Any]) -> None:
    """Lost pieces of a file are zeros, which would be many blocks of the same coefficients."""
    data = encode_jpeg(PIXELS, **options)
    begin = len(scan_jpeg(data).data)
    seen = 0
    for at in range(begin, len(data) - 70, 50):
        damaged = data[:at] + bytes(64) + data[at + 64 :]
        with pytest.raises(ValueError, match="JPEG stream"):
            check_jpeg(damaged, PAGE)
        seen += 1
    assert seen > 20


@pytest.mark.parametrize("options", [{"optimize": True}, {}, {"progressive": True}])
def test_zeros_that_are_blank_pixels_are_no_damage(options: dict[str, Any]) -> None:
    """With a table of its own, the shortest code of a blank picture is zero, and stands for the end of a block."""
    blank = np.full((2048, 2048, 3), 243, np.uint8)
    data = encode_jpeg(blank, **options)
    form = TileForm((2048, 2048), (2048, 2048), 8, 3)
    header = check_jpeg(data, form)
    has_zeros = bytes(32) in data[len(header.data) :]
    assert has_zeros == bool(options)
    assert header.may_hold_zeros or not has_zeros
    tables = _split_tables(data)
    assert check_jpeg(tables.stream, form, tables=tables.tables).may_hold_zeros == header.may_hold_zeros


# ------------------------------------------------------------------------------------ what a header and the page state


def encode(codec: int, pixels: np.ndarray) -> bytes:
    return {
        33005: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="j2k", reversible=True, level=0),
        34712: lambda p: imagecodecs.jpeg2k_encode(p, codecformat="jp2", reversible=True, level=0),
        34933: imagecodecs.png_encode,
        50001: lambda p: imagecodecs.webp_encode(p, lossless=True),
        50002: lambda p: imagecodecs.jpegxl_encode(p, lossless=True),
        34934: lambda p: imagecodecs.jpegxr_encode(p, level=100),
    }[codec](pixels)


RGB = np.ascontiguousarray(picture(90, 120))
DEEP = RGB.astype(np.uint16) * 257
GRAY = np.ascontiguousarray(RGB[..., 0])
CODECS = [33005, 34712, 34933, 50001, 50002, 34934]
NAMES = {33005: "JPEG 2000", 34712: "JPEG 2000", 34933: "PNG", 50001: "WebP", 50002: "JPEG XL", 34934: "JPEG XR"}


@pytest.mark.parametrize("codec", CODECS)
def test_streams_as_the_tags_say_pass(codec: int) -> None:
    check_stream(encode(codec, RGB), codec, PAGE)
    check_stream(encode(codec, RGB), codec, TileForm((96, 128), (90, 120), 8, 3))
    if codec != 50001:
        check_stream(encode(codec, DEEP), codec, PAGE._replace(bits=16))
        check_stream(encode(codec, GRAY), codec, PAGE._replace(samples=1))
    if codec in (34933, 50001, 50002):
        clear = np.dstack([RGB, GRAY])
        check_stream(encode(codec, clear), codec, PAGE._replace(samples=4))


@pytest.mark.parametrize("codec", CODECS)
def test_streams_of_another_form_are_refused(codec: int) -> None:
    data = encode(codec, RGB)
    with pytest.raises(ValueError, match=f"{NAMES[codec]} stream is 90 x 120 in a tile of 64 x 128"):
        check_stream(data, codec, OTHER)
    with pytest.raises(ValueError, match=f"{NAMES[codec]} stream is 90 x 120 in a tile of 128 x 128"):
        check_stream(data, codec, TileForm((128, 128), (128, 128), 8, 3))
    with pytest.raises(ValueError, match=f"{NAMES[codec]} stream has 8 bits a sample, but the tags say 16"):
        check_stream(data, codec, PAGE._replace(bits=16))
    with pytest.raises(ValueError, match=f"{NAMES[codec]} stream has 3 samples a pixel, but the tags say 1"):
        check_stream(data, codec, PAGE._replace(samples=1))
    for size in range(0, len(data), len(data) // 7):
        if codec in (50002, 34934) and size > 200:
            continue  # their decoders notice
        with pytest.raises(ValueError, match=r"damaged|cut short|begin|holds no"):
            check_stream(data[:size], codec, PAGE)


def test_jpeg_2000_must_be_whole() -> None:
    data = encode(33005, RGB)
    for lost in (1, 2, 3, 50, len(data) // 2):
        with pytest.raises(ValueError, match="JPEG 2000 stream is damaged or cut short|JPEG 2000 header is damaged"):
            check_stream(data[:-lost] + bytes(lost), 33005, PAGE)
    open_end = bytearray(data)
    start = data.index(b"\xff\x90")
    open_end[start + 6 : start + 10] = bytes(4)  # the tile-part reaches to the end
    check_stream(bytes(open_end), 33005, PAGE)
    check_stream(bytes(open_end) + b"\0", 33005, PAGE)
    with pytest.raises(ValueError, match="JPEG 2000 stream is cut short"):
        check_stream(bytes(open_end[:-2]) + b"\0\0", 33005, PAGE)
    more_tiles = bytearray(data)
    more_tiles[24:28] = (64).to_bytes(4)  # XTsiz: two tiles, of which one is there
    with pytest.raises(ValueError, match="JPEG 2000 stream has 1 of 2 tiles"):
        check_stream(bytes(more_tiles), 33005, PAGE)


@pytest.mark.parametrize("samples", [1, 4])
def test_jpeg_of_other_components_is_refused(samples: int) -> None:
    pixels = GRAY if samples == 1 else np.dstack([RGB, GRAY])
    data = imagecodecs.jpeg8_encode(pixels)
    with pytest.raises(ValueError, match=f"JPEG stream has {samples} samples a pixel, but the tags say 3"):
        check_jpeg(data, PAGE)


def test_jpeg_of_12_bits_is_refused() -> None:
    data = bytearray(encode_jpeg(PIXELS))
    frame = data.index(b"\xff\xc0")
    data[frame + 4] = 12
    with pytest.raises(ValueError, match="JPEG stream has 12 bits a sample, but the tags say 8"):
        check_jpeg(bytes(data), PAGE)


@pytest.mark.parametrize("reader", [pytest.param("cucim", marks=needs_cucim), "tifffile"])
@pytest.mark.parametrize("damage", ["12 bits", "1 component", "4 components"])
def test_no_reader_paints_jpeg_tiles_of_another_form(tmp_path: Path, reader: str, damage: str) -> None:
    pixels = picture(128, 128)
    tiles = [encode_jpeg(pixels[r : r + 64, c : c + 64]) for r in (0, 64) for c in (0, 64)]
    kind = {"shape": pixels.shape, "dtype": "uint8", "tile": (64, 64), "compression": "jpeg", "photometric": "ycbcr"}
    if damage == "12 bits":
        last = bytearray(tiles[3])
        last[last.index(b"\xff\xc0") + 4] = 12
        tiles[3] = bytes(last)
    else:
        gray = np.ascontiguousarray(pixels[64:, 64:, 0])
        tiles[3] = imagecodecs.jpeg8_encode(gray if damage[0] == "1" else np.dstack([gray] * 4))
    tifffile.imwrite(tmp_path / "a.tif", iter(tiles), **kind, metadata=None, subsampling=(2, 2))  # type: ignore[arg-type]
    opened = open_slide(inspect_slide(tmp_path / "a.tif", reader=reader))
    assert opened.read(0, (0, 0), (64, 64)).shape == (64, 64, 3)
    with pytest.raises(
        SlideError, match=r"a\.tif: tile 3 of level 0 .* is damaged: JPEG stream has \d+ (bits|samples)"
    ):
        opened.read(0, (64, 64), (64, 64))


def test_one_bit_of_a_jpeg_2000_size_takes_no_memory(tmp_path: Path) -> None:
    path = Path(write_pyramid(tmp_path / "a.tif", [picture(128, 128)], compression=33005))
    begin, _ = tile_range(path, 0, 2)
    overwrite(path, begin + path.read_bytes()[begin:].index(b"\xff\x51") + 6, b"\x40")  # Xsiz + 2^30
    opened = open_slide(inspect_slide(path))
    with pytest.raises(SlideError, match=r"tile 2 of level 0 .* is damaged: JPEG 2000 stream"):
        opened.read(0, (64, 0), (64, 64))


def test_openslide_sees_only_jpeg_2000_that_is_whole(tmp_path: Path) -> None:
    sample = ycbcr_jpeg2000()
    path = sample.make(tmp_path)
    begin, size = tile_range(path, 0, 1)
    overwrite(path, begin + size - 40, bytes(40))
    opened = open_slide(inspect_slide(path))
    assert opened.read(0, (0, 0), (64, 64)).shape == (64, 64, 3)
    with pytest.raises(SlideError, match=r"a\.svs: tile 1 of level 0 .* is damaged: JPEG 2000 .* cut short"):
        opened.read(0, (0, 64), (64, 64))
