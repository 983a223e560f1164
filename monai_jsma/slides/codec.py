# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Is a stored tile whole, and what its page promises? A cheap look at its header and markers, before it is decoded.

Decoders paint damage without raising an error, and take as much memory as a damaged header asks for. Detected are: a
stream that is cut short, a header that no decoder accepts, an image of another size, depth or number of samples than
its tile, and markers where coded pixels should be. Changed bits inside the coded pixels are not; only a checksum finds
those.

Changed bits may let the coded pixels of a JPEG stream end early. To see that, all of them must be decoded, and twice
(:func:`is_complete_jpeg`). It is done where pixels are as a decoder paints missing ones (:func:`looks_unfinished`),
where more bytes follow the end marker than writers fill up with, for progressive streams, and for all where a slide is
read strictly.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import NamedTuple

import imagecodecs
import numpy as np

__all__ = [
    "JpegHeader",
    "StreamForm",
    "TileForm",
    "check_jpeg",
    "check_stream",
    "find_png_chunk",
    "is_complete_jpeg",
    "is_known_codec",
    "looks_unfinished",
    "read_jpeg2000",
    "read_png",
    "scan_jpeg",
    "states_size",
]

_JPEG = {7, 34892, 33007}  # compressions whose tiles and strips are JPEG streams
_SOI, _EOI, _SOS = 0xD8, 0xD9, 0xDA
_END = bytes((0xFF, _EOI))
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # SOF0 ... SOF15 without DHT, JPG and DAC
_NO_SEGMENT = {0x00, *range(0xD0, 0xDA)}  # stuffing, restarts, begin and end: these have no length
_AFTER_SCAN = {0xC4, 0xCC, _SOS, *range(0xDB, 0xF0), 0xFE}  # tables, comments and further scans of a progressive stream
_SEQUENTIAL = {0xC0, 0xC1}  # SOF of streams that code each block once
_RESTART_INTERVAL = 0xDD
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")  # fill bytes may come before any marker
_MISSING = 128  # what decoders make of the blocks behind the last coded one
_BLOCK = 8  # pixels
_HUFFMAN_TABLES = 0xC4
_END_OF_BLOCK = 0
_LOST = bytes(32)  # a lost piece of a file is zeros; as pixels, the same coefficients all over
_MOST_PADDING = 15  # zeros behind the end marker, which writers add to a tile
_FILLER = b"\xaa" * 64  # coded pixels that are not zeros, which a decoder takes for missing ones
_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # neither a stuffed 0xFF, nor a fill byte, nor a restart


_SOT = 0xFF90  # begins a tile-part of JPEG 2000
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PALETTE = 3
_PNG_SAMPLES = {0: 1, 2: 3, _PNG_PALETTE: 3, 4: 2, 6: 4}
_XR_WIDTH, _XR_HEIGHT = 0xBC80, 0xBC81
_XR_OFFSET, _XR_ALPHA = 0xBCC0, 0xBCC2
_XR_SAMPLES = {0: 1, 1: 3, 2: 3, 3: 3, 7: 3}  # gray; YUV of RGB, its colors halved or not; RGB
_XR_BITS = {1: 8, 2: 16}
_JPEGXL_ENUM = ((0, 0), (1, 0), (2, 4), (18, 6))
_JPEGXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


class StreamForm(NamedTuple):
    """Height and width, bits of a sample, and samples of a pixel that a stream states."""

    size: tuple[int, int]
    bits: int
    samples: int


class TileForm(NamedTuple):
    """What the tags of a page promise of the stream of a tile.

    Attributes:
        size: height and width of a tile.
        inside: height and width of the part of it that lies inside the level; a stream may be as small as that.
        bits: bits of a sample.
        samples: samples of a pixel.
    """

    size: tuple[int, int]
    inside: tuple[int, int]
    bits: int
    samples: int

    def compare(self, codec: str, stream: StreamForm) -> None:
        """Raise ValueError unless a stream has the form that the tags promise."""
        for length, full, inside in zip(stream.size, self.size, self.inside, strict=True):
            if length != full and length != inside:
                height, width = self.size
                raise ValueError(
                    f"{codec} stream is {stream.size[0]} x {stream.size[1]} in a tile of {height} x {width}"
                )
        if stream.bits != self.bits:
            raise ValueError(f"{codec} stream has {stream.bits} bits a sample, but the tags say {self.bits}")

        is_opaque_webp = codec == "WebP" and (stream.samples, self.samples) == (3, 4)
        if stream.samples != self.samples and not is_opaque_webp:
            raise ValueError(f"{codec} stream has {stream.samples} samples a pixel, but the tags say {self.samples}")


# ------------------------------------------------------------------------------------------------------------ JPEG


class JpegHeader(NamedTuple):
    """What a JPEG stream states, and its bytes up to the first coded pixel.

    Attributes:
        form: size, depth and number of samples.
        data: the bytes.
        is_sequential: whether each block is coded once, not in several scans (progressive).
        has_restarts: whether the coded pixels are in pieces that do not depend on each other.
        may_hold_zeros: whether a long run of zeros may be coded pixels, because it stands for blocks of one color.
    """

    form: StreamForm
    data: bytes
    is_sequential: bool
    has_restarts: bool
    may_hold_zeros: bool

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.form.size


def scan_jpeg(data: bytes) -> JpegHeader:
    """Walk the markers of a JPEG stream to its end.

    Raises:
        ValueError: if a marker is missing, cut off or out of place.
    """
    header = _read_header(data, None)
    _walk_scans(data, header)
    return header


def check_jpeg(
    data: bytes, page: TileForm, *, tables: bytes | None = None, like: JpegHeader | None = None
) -> JpegHeader:
    """Check a JPEG tile and its shared ``tables``.

    Args:
        data: bytes of the tile.
        page: what the tags promise.
        tables: the page's JPEGTables, or None.
        like: header of another tile of the page that was found good; a tile that begins alike is checked faster.

    Returns:
        The header of the tile.

    Raises:
        ValueError: if the stream is damaged, or of another size, depth or number of samples.
    """
    if like is not None and data.startswith(like.data):
        header = like
        if header.size != page.size:  # as small as its part of the level is: another tile may have another part
            page.compare("JPEG", header.form)
    else:
        header = _read_header(data, tables)
        page.compare("JPEG", header.form)
        _try_header(header.data, tables)

    end = _walk_scans(data, header)
    if _is_followed(data, end) and not is_complete_jpeg(data, tables=tables):
        raise ValueError("the coded pixels of its JPEG stream end early")
    return header


def _read_header(data: bytes, tables: bytes | None) -> JpegHeader:
    if data[:2] != bytes((0xFF, _SOI)):
        raise ValueError("does not begin as a JPEG stream")

    form = None
    is_sequential = True
    has_restarts = False
    huffman = _list_huffman_tables(tables or b"")
    segment = _Segment(_SOI, 0, 2)
    while segment.marker != _SOS:
        segment = _read_segment(data, segment.end)
        if segment.marker in _FRAMES:
            if form is not None:
                raise ValueError("JPEG header states two sizes")
            form = _read_frame(data[segment.begin : segment.end])
            is_sequential = segment.marker in _SEQUENTIAL
        if segment.marker == _RESTART_INTERVAL:
            has_restarts = any(data[segment.begin + 2 : segment.end])
        if segment.marker == _HUFFMAN_TABLES:
            huffman.update(_read_huffman_tables(data[segment.begin + 2 : segment.end]))

    if form is None:
        raise ValueError("JPEG header states no size")
    scan = data[segment.begin + 2 : segment.end]
    may_hold_zeros = not is_sequential or _may_hold_zeros(scan, huffman, form.samples)
    return JpegHeader(form, data[: segment.end], is_sequential, has_restarts, may_hold_zeros)


def _list_huffman_tables(tables: bytes) -> dict[int, int]:
    """As :func:`_read_huffman_tables`, of a stream that holds tables only; of a damaged one, none."""
    found: dict[int, int] = {}
    position = 2
    with suppress(ValueError):
        while position < len(tables):
            segment = _read_segment(tables, position)
            if segment.marker == _HUFFMAN_TABLES:
                found.update(_read_huffman_tables(tables[segment.begin + 2 : segment.end]))
            position = segment.end
    return found


def _read_huffman_tables(content: bytes) -> dict[int, int]:
    """What a code of zeros stands for in each table of a segment, by the table's class (high bits) and number."""
    found = {}
    while len(content) > 17:
        num_symbols = sum(content[1:17])
        found[content[0]] = content[17]  # the first symbol has the shortest code, which is all zeros
        content = content[17 + num_symbols :]
    return found


def _may_hold_zeros(scan: bytes, huffman: dict[int, int], samples: int) -> bool:
    """Whether zeros may be coded pixels of a scan: if they are ends of blocks, they stand for blocks of one color.

    Else they stand for one coefficient other than zero, at every place of block after block. Looked at is the first
    component, which every scan of all of them has.

    Args:
        scan: content of the header of the scan: a count, then number and tables of each component.
        huffman: what zeros stand for in each table.
        samples: components of a pixel.
    """
    if len(scan) < 3 or scan[0] != samples:
        return True
    coefficients = 0x10 | scan[2] & 0x0F
    return huffman.get(coefficients, _END_OF_BLOCK) == _END_OF_BLOCK


def _read_frame(segment: bytes) -> StreamForm:
    if len(segment) < 8:
        raise ValueError("JPEG header is damaged or cut short")
    _, bits, height, width, samples = struct.unpack_from(">HBHHB", segment)
    if len(segment) != 8 + 3 * samples:
        raise ValueError("JPEG header is damaged or cut short")
    return StreamForm((height, width), bits, samples)


def _walk_scans(data: bytes, header: JpegHeader) -> int:
    """From the first coded pixel to the end of the stream, which is returned."""
    end = len(header.data)
    for begin, scan_end in _list_scans(data, end):
        if not header.may_hold_zeros and data.find(_LOST, begin, scan_end) >= 0:
            raise ValueError("JPEG stream has zeros in place of coded pixels")
        end = scan_end
    return end + len(_END)


def _is_followed(data: bytes, end: int) -> bool:
    """Whether more follows the end of a stream than zeros that fill up a tile: its end marker may be changed bits."""
    behind = data[end:]
    return len(behind) > _MOST_PADDING or any(behind)


def _list_scans(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """First byte and end of the coded pixels of each scan, from the first coded pixel on."""
    while True:
        match = _MARKER.search(data, position)
        if match is None:
            raise ValueError("JPEG stream is cut short")
        marker = data[match.end() - 1]
        if marker != _EOI and marker not in _AFTER_SCAN:
            raise ValueError(f"JPEG stream has marker 0x{marker:02X} among its coded pixels")
        yield position, match.start()
        if marker == _EOI:
            return

        segment = _read_segment(data, match.start())
        while segment.marker != _SOS:  # tables and comments before the next scan
            segment = _read_segment(data, segment.end)
        position = segment.end


def looks_unfinished(pixels: np.ndarray, *, has_restarts: bool) -> bool:
    """Whether pixels are as a decoder paints those that are missing at the end of a JPEG stream.

    Missing blocks are gray of 128, and they are the last ones, so the last pixel is gray too. With restarts the end of
    each piece may be missing; then a pixel of every block is looked at. A last block that is missing in part is not
    seen.

    Args:
        pixels: RGB of a tile, or of its part under a window: ``(height, width, 3)``.
        has_restarts: whether the stream is in pieces.
    """
    if not has_restarts:
        return pixels.item(-1, -1, 0) == _MISSING and bool((pixels[-1, -1] == _MISSING).all())  # the first is seldom so
    of_blocks = pixels[::-_BLOCK, ::-_BLOCK]
    return bool((of_blocks == _MISSING).all(axis=2).any())


def is_complete_jpeg(data: bytes, *, tables: bytes | None = None) -> bool:
    """Whether a JPEG stream has coded pixels up to its last block.

    Decoders make up what is missing, without an error. So coded pixels are put behind those that are there: if they
    change the image, some were missing. Behind a complete stream a decoder ignores them.

    Args:
        data: a stream whose markers were found good.
        tables: the page's JPEGTables, or None.

    Raises:
        ValueError: if the stream is damaged otherwise.
    """
    end = len(_read_header(data, tables).data)
    parts = [data[:end]]
    for begin, scan_end in _list_scans(data, end):
        coded = data[begin:scan_end].rstrip(b"\xff")  # without the fill bytes of the marker that follows
        coded = _RESTART.sub(lambda restart: _FILLER + restart[0], coded)
        parts += [data[end:begin], coded, _FILLER]
        end = scan_end
    longer = b"".join([*parts, data[end:]])
    try:
        return _hash_pixels(data, tables) == _hash_pixels(longer, tables)
    except RuntimeError as e:
        raise ValueError(f"JPEG stream is damaged: {e}") from e


def _hash_pixels(data: bytes, tables: bytes | None) -> bytes:
    pixels = imagecodecs.jpeg8_decode(data, tables=tables)
    return hashlib.blake2b(pixels.data).digest()


class _Segment(NamedTuple):
    """A marker, the first byte of its length, and the first byte after its content."""

    marker: int
    begin: int
    end: int


def _read_segment(data: bytes, position: int) -> _Segment:
    while data[position : position + 2] == b"\xff\xff":  # fill bytes
        position += 1

    begin = position + 2
    end = begin + int.from_bytes(data[begin : begin + 2])
    is_whole = begin + 2 <= end <= len(data)
    if data[position : position + 1] != b"\xff" or not is_whole or data[begin - 1] in _NO_SEGMENT:
        raise ValueError("JPEG header is damaged or cut short")
    return _Segment(data[begin - 1], begin, end)


@lru_cache(maxsize=64)
def _try_header(header: bytes, tables: bytes | None) -> None:
    """Let a strict decoder read the header alone; the tiles of a slide share one or a few headers."""
    try:
        imagecodecs.jpeg8_decode(header + _END, tables=tables)
    except RuntimeError as e:
        raise ValueError(f"JPEG header is damaged: {e}") from e


# ---------------------------------------------------------------------------------------- streams of every other codec


def check_stream(data: bytes, compression: int, page: TileForm) -> None:
    """Check a tile whose codec states a size of its own (JPEG 2000, PNG, WebP, JPEG XL, JPEG XR) before it is decoded.

    Args:
        data: bytes of the tile.
        compression: number of the codec in the TIFF tags; tiles of other codecs pass.
        page: what the tags promise.

    Raises:
        ValueError: if the stream is damaged, cut short, or of another size, depth or number of samples.
    """
    entry = _STREAMS.get(compression)
    if entry is None:
        return
    codec, read_form = entry
    try:
        form = read_form(data)
    except (IndexError, struct.error) as e:
        raise ValueError(f"{codec} header is damaged or cut short") from e
    page.compare(codec, form)


def read_jpeg2000(data: bytes) -> StreamForm:
    """What a JPEG 2000 stream, or the one in a JP2 file, states; all of its tiles must be there up to the end marker.

    Raises:
        ValueError: if a marker is missing or out of place, or the stream is cut short.
    """
    begin = 0
    if data[4:8] == b"jP  ":
        begin = _find_box(data, b"jp2c")
    if data[begin : begin + 4] != b"\xff\x4f\xff\x51":
        raise ValueError("does not begin as a JPEG 2000 stream")

    right, bottom, left, top, tile_width, tile_height, tile_left, tile_top, samples = struct.unpack_from(
        ">8IH", data, begin + 8
    )
    components = data[begin + 42 : begin + 42 + 3 * samples]
    depths = set(components[::3])
    if min(tile_width, tile_height) < 1 or len(components) < 3 * samples or len(depths) != 1:
        raise ValueError("JPEG 2000 header is damaged, or its components differ in depth")

    rows = -(-(bottom - tile_top) // tile_height)
    columns = -(-(right - tile_left) // tile_width)
    _walk_tile_parts(data, begin, num_tiles=rows * columns)
    bits = (depths.pop() & 0x7F) + 1
    return StreamForm((bottom - top, right - left), bits, samples)


def _find_box(data: bytes, kind: bytes) -> int:
    """First byte of the content of a box of an ISO file."""
    position = 0
    while position + 8 <= len(data):
        length = int.from_bytes(data[position : position + 4])
        head = 8
        if length == 1:
            length = int.from_bytes(data[position + 8 : position + 16])
            head = 16
        if data[position + 4 : position + 8] == kind:
            return position + head
        if length < head:
            break
        position += length
    raise ValueError(f"holds no {kind.decode()} box")


def _walk_tile_parts(data: bytes, begin: int, *, num_tiles: int) -> None:
    """From the start marker of a JPEG 2000 stream to its end marker, from one tile-part to the next."""
    position = begin + 2
    tiles = set()
    while data[position : position + 2] != b"\xff\xd9":
        marker, length = struct.unpack_from(">HH", data, position)
        if marker >> 8 != 0xFF or length < 2:
            raise ValueError("JPEG 2000 stream is damaged or cut short")
        if marker != _SOT:  # a segment of the main header
            position += 2 + length
            continue

        tile, part_length = struct.unpack_from(">HI", data, position + 4)
        tiles.add(tile)
        if part_length == 0:  # the last part, up to the end
            position = len(data.rstrip(b"\0")) - 2
            if data[position : position + 2] != b"\xff\xd9":
                raise ValueError("JPEG 2000 stream is cut short")
        elif part_length < 14:
            raise ValueError("JPEG 2000 stream is damaged")
        else:
            position += part_length

    if len(tiles) != num_tiles:
        raise ValueError(f"JPEG 2000 stream has {len(tiles)} of {num_tiles} tiles")


def read_png(data: bytes) -> StreamForm:
    """What a PNG stream states; its chunks must reach to the end.

    Raises:
        ValueError: if it is no PNG stream, or cut short.
    """
    if data[:8] != _PNG or data[12:16] != b"IHDR":
        raise ValueError("does not begin as a PNG stream")
    width, height, bits, color = struct.unpack_from(">IIBB", data, 16)
    if color not in _PNG_SAMPLES:
        raise ValueError("PNG header is damaged")
    find_png_chunk(data, b"IEND")
    if color == _PNG_PALETTE:
        bits = 8
    return StreamForm((height, width), bits, _PNG_SAMPLES[color])


def find_png_chunk(data: bytes, kind: bytes) -> bytes | None:
    """Content of the first chunk of a kind, or None if there is none before the end.

    Raises:
        ValueError: if the stream is cut short.
    """
    position = len(_PNG)
    while position + 12 <= len(data):
        length, name = struct.unpack_from(">I4s", data, position)
        if name == kind:
            return data[position + 8 : position + 8 + length]
        if name == b"IEND":
            return None
        position += 12 + length
    raise ValueError("PNG stream is cut short")


def _read_webp(data: bytes) -> StreamForm:
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP":
        raise ValueError("does not begin as a WebP stream")
    if int.from_bytes(data[4:8], "little") + 8 > len(data):
        raise ValueError("WebP stream is cut short")

    kind = data[12:16]
    if kind == b"VP8X":
        has_alpha = bool(data[20] & 0x10)
        width = int.from_bytes(data[24:27], "little") + 1
        height = int.from_bytes(data[27:30], "little") + 1
    elif kind == b"VP8L":
        fields = int.from_bytes(data[21:25], "little")
        width = (fields & 0x3FFF) + 1
        height = (fields >> 14 & 0x3FFF) + 1
        has_alpha = bool(fields >> 28 & 1)
    elif kind == b"VP8 ":
        has_alpha = False
        width = int.from_bytes(data[26:28], "little") & 0x3FFF
        height = int.from_bytes(data[28:30], "little") & 0x3FFF
    else:
        raise ValueError("WebP header is damaged")
    return StreamForm((height, width), 8, 4 if has_alpha else 3)


def _read_jpegxr(data: bytes) -> StreamForm:
    if data[:3] != b"II\xbc":
        raise ValueError("does not begin as a JPEG XR stream")
    directory = struct.unpack_from("<I", data, 4)[0]
    num_entries = struct.unpack_from("<H", data, directory)[0]
    entries = {}
    for i in range(num_entries):
        tag, _, _, value = struct.unpack_from("<HHII", data, directory + 2 + 12 * i)
        entries[tag] = value

    begin = entries.get(_XR_OFFSET, 0)
    if data[begin : begin + 8] != b"WMPHOTO\0":
        raise ValueError("JPEG XR header is damaged")
    is_short = data[begin + 10] & 0x80
    width, height = struct.unpack_from(">HH" if is_short else ">II", data, begin + 12)
    size = (height + 1, width + 1)
    if size != (entries.get(_XR_HEIGHT), entries.get(_XR_WIDTH)):
        raise ValueError("JPEG XR header states two sizes")

    color = data[begin + 11] >> 4
    depth = data[begin + 11] & 0x0F
    if color not in _XR_SAMPLES or depth not in _XR_BITS:
        raise ValueError("JPEG XR stream is neither gray nor RGB of 8 or 16 bits")
    has_alpha = data[begin + 10] & 1 or _XR_ALPHA in entries
    samples = _XR_SAMPLES[color] + bool(has_alpha)
    return StreamForm(size, _XR_BITS[depth], samples)


class _Bits:
    """The bits of a JPEG XL stream, the lowest of every byte first."""

    def __init__(self, data: bytes) -> None:
        self.value = int.from_bytes(data, "little")

    def take(self, count: int) -> int:
        """The next ``count`` bits as a number."""
        number = self.value & ((1 << count) - 1)
        self.value >>= count
        return number

    def choose(self, *choices: tuple[int, int]) -> int:
        """A number in one of four forms, each a smallest value and the bits of what is added."""
        smallest, count = choices[self.take(2)]
        return smallest + self.take(count)


def _read_jpegxl(data: bytes) -> StreamForm:
    begin = 0
    if data[4:8] == b"JXL ":
        try:
            begin = _find_box(data, b"jxlc")
        except ValueError:
            begin = _find_box(data, b"jxlp") + 4
    if data[begin : begin + 2] != b"\xff\x0a":
        raise ValueError("does not begin as a JPEG XL stream")

    bits = _Bits(data[begin + 2 : begin + 200])
    size = _take_jpegxl_size(bits)
    if bits.take(1):  # all of the metadata is as usual
        return StreamForm(size, 8, 3)
    if bits.take(1):
        bits.take(3)  # the orientation, which TIFF readers ignore
        if bits.take(3):
            raise ValueError("JPEG XL stream holds a preview or an animation")

    depth = _take_jpegxl_depth(bits)
    bits.take(1)
    num_extra = bits.choose((0, 0), (1, 0), (2, 4), (1, 12))
    for _ in range(num_extra):
        _skip_jpegxl_channel(bits)
    bits.take(1)
    color_space = 0
    if not bits.take(1) and not bits.take(1):
        color_space = bits.choose(*_JPEGXL_ENUM)
    samples = 1 if color_space == 1 else 3
    return StreamForm(size, depth, samples + num_extra)


def _take_jpegxl_size(bits: _Bits) -> tuple[int, int]:
    is_small = bits.take(1)
    height = _take_jpegxl_length(bits, is_small)
    ratio = bits.take(3)
    if ratio == 0:
        return height, _take_jpegxl_length(bits, is_small)
    across, down = _JPEGXL_RATIOS[ratio]
    return height, height * across // down


def _take_jpegxl_length(bits: _Bits, is_small: int) -> int:
    if is_small:
        return 8 * (bits.take(5) + 1)
    return bits.choose((1, 9), (1, 13), (1, 18), (1, 30))


def _take_jpegxl_depth(bits: _Bits) -> int:
    if bits.take(1):
        raise ValueError("JPEG XL stream holds floating-point numbers")
    return bits.choose((8, 0), (10, 0), (12, 0), (1, 6))


def _skip_jpegxl_channel(bits: _Bits) -> None:
    if bits.take(1):  # alpha of 8 bits
        return
    kind = bits.choose(*_JPEGXL_ENUM)
    if kind != 0:
        raise ValueError("JPEG XL stream has a channel that is neither color nor alpha")
    _take_jpegxl_depth(bits)
    bits.choose((0, 0), (3, 0), (4, 0), (1, 3))
    length = bits.choose((0, 0), (0, 4), (16, 5), (48, 10))
    bits.take(8 * length)
    bits.take(1)


_JPEG_2000 = ("JPEG 2000", read_jpeg2000)
_JPEG_XL = ("JPEG XL", _read_jpegxl)
_JPEG_XR = ("JPEG XR", _read_jpegxr)
_WEBP = ("WebP", _read_webp)
_STREAMS: dict[int, tuple[str, Callable[[bytes], StreamForm]]] = {
    33003: _JPEG_2000,
    33004: _JPEG_2000,
    33005: _JPEG_2000,
    34712: _JPEG_2000,
    22610: _JPEG_XR,
    34934: _JPEG_XR,
    34927: _WEBP,
    50001: _WEBP,
    34933: ("PNG", read_png),
    50002: _JPEG_XL,
    52546: _JPEG_XL,
}

_PIXELS_ONLY = {1, 5, 8, 32773, 32946, 34925, 34926, 50000}  # raw, LZW, Deflate, PackBits, LZMA, Zstd: state no size


def states_size(compression: int) -> bool:
    """Whether tiles of a codec state a size of their own, which is compared with the page."""
    return compression in _STREAMS or compression in _JPEG


def is_known_codec(compression: int) -> bool:
    """Whether tiles of a codec can be checked before they are decoded, or cannot ask for more memory than the page."""
    return states_size(compression) or compression in _PIXELS_ONLY
