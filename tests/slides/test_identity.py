# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""One slide is one thing, however many files it has: its pixels, checksum, stamp, key; no preview is taken for it."""

from __future__ import annotations

import hashlib
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from dicom_files import decode_level, new_series, write_dicom, write_dicom_slide
from PIL import Image
from pydicom.uid import CTImageStorage, generate_uid
from slide_files import JPEG, picture, write_pyramid

from monai_jsma._io import file_sha256
from monai_jsma.slides import SlideError, inspect_slide, open_slide, read_image
from monai_jsma.slides.identity import (
    find_slide_key,
    group_slide_files,
    list_slide_files,
    slide_identity,
    slide_sha256,
    slide_stamp,
)
from monai_jsma.transforms import LoadPyramid

PIXELS = picture(256, 256)
LEVELS = [PIXELS, np.ascontiguousarray(PIXELS[::4, ::4])]


def change(path: Path) -> None:
    """Change one byte in the middle of a file, its length and its end stay."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(1, 1))


def key_of(path: Path) -> bytes | None:
    return LoadPyramid(["100X"], 32)(path).key


def read_finest(path: Path) -> np.ndarray:
    info = inspect_slide(path)
    return open_slide(info).read(0, (0, 0), info.size)


def assert_one_slide(folder: Path, names: list[Path]) -> None:
    """Whichever of its files is named, the slide is the same."""
    for of in (slide_sha256, slide_identity, slide_stamp, find_slide_key, list_slide_files, key_of):
        assert len({of(str(name)) for name in names}) == 1, of
    for name in names:
        info = inspect_slide(name)
        assert (info.reader, info.mpp, info.level_sizes) == ("openslide", 0.5, ((256, 256), (64, 64)))
        assert info.reason.startswith(f"dicom slide of {len(os.listdir(folder))} files")
        reader = pickle.loads(pickle.dumps(open_slide(info)))
        for level, pixels in enumerate(LEVELS):
            np.testing.assert_array_equal(reader.read(level, (0, 0), pixels.shape[:2]), decode_level(pixels))


# ---------------------------------------------------------------------------------------------------------------- DICOM


def test_any_file_of_a_series_is_the_slide_and_so_is_its_folder(tmp_path):
    paths = write_dicom_slide(tmp_path, LEVELS)
    assert_one_slide(tmp_path, [*paths, tmp_path])
    assert list_slide_files(str(tmp_path)) == tuple(map(str, paths))


def test_names_and_order_of_the_files_mean_nothing(tmp_path):
    fine, coarse = write_dicom_slide(tmp_path, LEVELS)
    expected = slide_sha256(fine)
    fine.rename(tmp_path / "z")  # as an archive exports it, without suffix
    coarse.rename(tmp_path / "a.DCM")
    assert_one_slide(tmp_path, [tmp_path / "z", tmp_path / "a.DCM", tmp_path])
    assert slide_sha256(tmp_path) == expected
    assert list_slide_files(str(tmp_path))[0] == str(tmp_path / "z")


def test_label_and_overview_belong_to_the_slide_and_are_no_level(tmp_path):
    series = new_series()
    write_dicom(tmp_path / "a.dcm", picture(512, 512), series, kind=("ORIGINAL", "PRIMARY", "OVERVIEW", "NONE"))
    write_dicom(tmp_path / "b.dcm", LEVELS[0], series)
    write_dicom(tmp_path / "c.dcm", LEVELS[1], series, mpp=2.0)
    write_dicom(tmp_path / "d.dcm", LEVELS[1], series, kind=("ORIGINAL", "PRIMARY", "LABEL", "NONE"))
    assert_one_slide(tmp_path, [tmp_path / f"{name}.dcm" for name in "abcd"])
    assert list_slide_files(str(tmp_path))[0] == str(tmp_path / "b.dcm")


def concatenate(folder: Path) -> list[Path]:
    """A slide whose finest level of 16 frames is cut into files of 6, 6 and 4."""
    series = new_series()
    common = {"ConcatenationUID": generate_uid(), "SOPInstanceUIDOfConcatenationSource": generate_uid()}
    paths = [write_dicom(folder / "coarse.dcm", LEVELS[1], series, mpp=2.0)]
    for number, start in enumerate((0, 6, 12), start=1):
        numbers = {
            "InConcatenationNumber": number,
            "InConcatenationTotalNumber": 3,
            "ConcatenationFrameOffsetNumber": start,
        }
        path = folder / f"part{number}.dcm"
        frames = slice(start, start + 6)
        paths.append(write_dicom(path, LEVELS[0], series, frames=frames, **common, **numbers))
    return paths


def test_concatenation(tmp_path):
    paths = concatenate(tmp_path)
    assert_one_slide(tmp_path, [*paths, tmp_path])


@pytest.mark.parametrize("missing", [1, 2, 3])
def test_concatenation_with_a_missing_file(tmp_path, missing):
    paths = concatenate(tmp_path)
    paths[missing].unlink()
    with pytest.raises(SlideError, match=r"coarse\.dcm: .*(check that all files of the slide are there|is damaged)"):
        read_finest(paths[0])


def test_a_file_that_is_tiff_too_is_read_as_dicom(tmp_path):
    """The preamble may be the header of a TIFF file whose tags show this one level."""
    paths = write_dicom_slide(tmp_path, LEVELS)
    for path in paths:
        content = bytearray(path.read_bytes())
        content[:8] = b"II*\0\x08\0\0\0"
        path.write_bytes(content)
    assert_one_slide(tmp_path, paths)


def test_slides_in_one_folder_are_told_apart(tmp_path):
    first = write_dicom_slide(tmp_path, LEVELS, stem="a")
    second = write_dicom_slide(tmp_path, LEVELS[:1], stem="b")
    assert list_slide_files(str(first[1])) == tuple(map(str, first))
    assert list_slide_files(str(second[0])) == tuple(map(str, second))
    assert find_slide_key(str(first[0])) != find_slide_key(str(second[0]))
    assert group_slide_files([*first, *second]) == {first[0]: first[0], first[1]: first[0], second[0]: second[0]}
    with pytest.raises(SlideError, match=r"is a folder with 2 DICOM slides; name a file of one of them, such as a0"):
        inspect_slide(tmp_path)


def test_a_changed_file_is_seen_whichever_it_is(tmp_path):
    for number in (0, 1):
        folder = tmp_path / str(number)
        paths = write_dicom_slide(folder, LEVELS)
        reader = open_slide(inspect_slide(paths[0]))
        before = [of(str(paths[0])) for of in (slide_sha256, slide_stamp, slide_identity, key_of)]
        change(paths[number])
        after = [of(str(paths[0])) for of in (slide_sha256, slide_stamp, slide_identity, key_of)]
        assert all(old != new for old, new in zip(before, after))
        with pytest.raises(SlideError, match=r"level0\.dcm: one of its files was changed after it was inspected"):
            reader.read(0, (0, 0), (8, 8))


def test_a_lost_and_an_added_file_are_changes_of_the_same_slide(tmp_path):
    fine, coarse = write_dicom_slide(tmp_path, LEVELS)
    stamp, checksum, key = slide_stamp(str(fine)), slide_sha256(fine), find_slide_key(str(fine))
    coarse.unlink()
    assert slide_stamp(str(fine)) != stamp
    assert slide_sha256(fine) != checksum
    assert find_slide_key(str(fine)) == key


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"NumberOfOpticalPaths": 2}, r"fine\.dcm: it has 2 optical paths, but a slide with one is needed"),
        ({"TotalPixelMatrixFocalPlanes": 3}, r"fine\.dcm: it has 3 focal planes, but a slide with one is needed"),
    ],
)
def test_what_no_reader_gives_is_refused(tmp_path, attributes, message):
    series = new_series()
    coarse = write_dicom(tmp_path / "coarse.dcm", LEVELS[1], series, mpp=2.0)
    fine = write_dicom(tmp_path / "fine.dcm", LEVELS[0], series, **attributes)
    for path in (coarse, fine, tmp_path):
        with pytest.raises(SlideError, match=message):
            inspect_slide(path)


@pytest.mark.parametrize(
    "attributes", [{"SOPClassUID": CTImageStorage, "Modality": "CT"}, {"kind": ("DERIVED", "PRIMARY", "LABEL", "NONE")}]
)
def test_a_dicom_file_of_no_slide(tmp_path, attributes):
    path = write_dicom(tmp_path / "a.dcm", LEVELS[1], new_series(), **attributes)
    with pytest.raises(SlideError, match=r"a\.dcm: a DICOM file, but of no whole slide"):
        inspect_slide(path)
    with pytest.raises(SlideError, match="is a folder, not an image or slide; name the file in it"):
        inspect_slide(tmp_path)


def test_a_file_of_the_only_slide_with_a_damaged_header(tmp_path):
    """OpenSlide would leave the level out, and the slide were coarser without a word."""
    fine, coarse = write_dicom_slide(tmp_path, LEVELS)
    content = fine.read_bytes()
    series = content.index(b"\x20\0\x0e\0UI") + 8
    for length in (400, series, series + 7, 900):  # before, at, in and behind the name of the series
        fine.write_bytes(content[:length])
        for path in (coarse, fine, tmp_path):
            with pytest.raises(SlideError, match=r"level0\.dcm: the DICOM header is (cut short|damaged)"):
                inspect_slide(path)
    fine.write_bytes(b"")
    with pytest.raises(SlideError, match=r"level0\.dcm: not a DICOM file; copy the file again"):
        inspect_slide(coarse)


def test_a_damaged_file_among_several_slides_is_named_and_the_slides_are_read(tmp_path, caplog):
    first = write_dicom_slide(tmp_path, LEVELS, stem="a")
    second = write_dicom_slide(tmp_path, LEVELS, stem="b")
    (tmp_path / "c.dcm").write_bytes(first[0].read_bytes()[:600])
    assert inspect_slide(first[0]).level_sizes == inspect_slide(second[1]).level_sizes == ((256, 256), (64, 64))
    assert caplog.text.count("c.dcm: the DICOM header is cut short") == 1


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"kind": ("ORIGINAL", "PRIMARY", "VOLUMD", "NONE")}, r"ImageType \['ORIGINAL', 'PRIMARY', 'VOLUMD', 'NONE'\]"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.77.1.7"}, r"SOPClassUID 1[\d.]+7 of a slide microscope"),
        ({"SeriesInstanceUID": "1.2.8x6"}, "SeriesInstanceUID '1.2.8x6'"),
        ({"NumberOfFrames": 17}, "its table of offsets is not one of 17 frames"),
    ],
)
def test_a_level_that_does_not_say_that_it_is_one(tmp_path, attributes, reason):
    """OpenSlide would leave it out, and the slide were coarser without a word."""
    for other in (False, True):
        series = new_series()
        folder = tmp_path / str(other)
        coarse = write_dicom(folder / "coarse.dcm", LEVELS[1], series, mpp=2.0)
        write_dicom(folder / "fine.dcm", LEVELS[0], series, **attributes)
        if other and "SeriesInstanceUID" not in attributes:  # else it may belong to any slide
            write_dicom(folder / "other.dcm", LEVELS[1], new_series())
        with pytest.raises(SlideError, match=rf"fine\.dcm: .*{reason}"):
            inspect_slide(coarse)


@pytest.mark.parametrize("damage", ["descending", "twice", "beyond"])
def test_offsets_of_frames_that_would_end_the_process(tmp_path, damage):
    """OpenSlide 4.0.1 reads a negative number of bytes."""
    fine, _ = write_dicom_slide(tmp_path, LEVELS)
    content = bytearray(fine.read_bytes())
    table = content.index(b"\xe0\x7f\x10\0") + 20  # behind the tag of the pixels and of their first item
    offsets = np.frombuffer(content, "<u4", 16, table)  # of the frames; the array changes the file's bytes
    expected = inspect_slide(fine).level_sizes
    assert (np.diff(offsets.astype(int)) > 0).all()
    if damage == "descending":
        offsets[[4, 5]] = offsets[[5, 4]]
    elif damage == "twice":
        offsets[5] = offsets[4]
    else:
        offsets[-1] = len(content)
    fine.write_bytes(content)
    assert expected == ((256, 256), (64, 64))
    with pytest.raises(SlideError, match=r"level0\.dcm: the offsets of its frames do not ascend within the file"):
        inspect_slide(fine)


def test_missing_tiles_are_an_error_not_white(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", PIXELS, new_series(), frames=slice(8))
    with pytest.raises(SlideError, match=r"a\.dcm: .*is damaged"):
        read_finest(path)


# ------------------------------------------------------------------------------------------- other slides of many files


def write_mirax_files(folder: Path) -> Path:
    """Files with MIRAX's names; OpenSlide takes them for a slide, and finds no pixels."""
    data = folder / "a"
    data.mkdir(parents=True)
    Image.fromarray(PIXELS).save(folder / "a.mrxs", "JPEG")  # as the scanner does: a preview
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat", "Data0001.dat"):
        (data / name).write_text(f"[GENERAL]\n{name}\n")
    return folder / "a.mrxs"


def test_mirax_is_its_file_and_its_folder(tmp_path):
    path = write_mirax_files(tmp_path)
    (tmp_path / "a" / ".DS_Store").write_bytes(b"x")
    names = [Path(file).relative_to(tmp_path).as_posix() for file in list_slide_files(str(path))]
    assert names == ["a.mrxs", "a/Data0000.dat", "a/Data0001.dat", "a/Index.dat", "a/Slidedat.ini"]
    lines = "\n".join(sorted(file_sha256(tmp_path / name) for name in names))
    assert slide_sha256(path) == hashlib.sha256(lines.encode()).hexdigest()
    before = slide_sha256(path), slide_stamp(str(path)), slide_identity(str(path))
    change(tmp_path / "a" / "Data0001.dat")
    after = slide_sha256(path), slide_stamp(str(path)), slide_identity(str(path))
    assert all(old != new for old, new in zip(before, after))


def test_mirax_without_its_folder_is_not_its_preview(tmp_path):
    path = write_mirax_files(tmp_path)
    shutil.rmtree(tmp_path / "a")
    for reader in (None, "pil", "openslide"):
        with pytest.raises(SlideError, match=r"a\.mrxs: only a preview; .* copy the folder beside the file"):
            inspect_slide(path, reader=reader)
    with pytest.raises(SlideError, match=r"a\.mrxs: only a preview"):
        read_image(path)


def test_the_preview_of_a_whole_mirax_slide_is_not_the_slide(tmp_path):
    path = write_mirax_files(tmp_path)
    with pytest.raises(SlideError, match=r"a\.mrxs: a mirax slide, which is not one image"):
        read_image(path)
    with pytest.raises(SlideError, match=r"reader='pil' cannot read it .*only OpenSlide can put it together"):
        inspect_slide(path, reader="pil")
    with pytest.raises(SlideError, match=r"a\.mrxs: OpenSlide cannot open it"):
        inspect_slide(path)


@pytest.mark.parametrize("suffix", ["vms", "vmu"])
def test_hamamatsu_index_and_the_files_that_it_names(tmp_path, suffix):
    index = tmp_path / f"a.{suffix}"
    index.write_text(
        "[Virtual Microscope Specimen]\nImageFile=a.jpg\nImageFile(0,1)=b.jpg\nMapFile=map.jpg\nNote=c.jpg\n"
    )
    for name in ("a.jpg", "b.jpg", "map.jpg", "other.jpg"):
        (tmp_path / name).write_bytes(name.encode())
    assert [Path(file).name for file in list_slide_files(str(index))] == [f"a.{suffix}", "a.jpg", "b.jpg", "map.jpg"]
    slide_of = group_slide_files(sorted(tmp_path.iterdir()))
    assert set(slide_of.values()) == {index, tmp_path / "other.jpg"}


# -------------------------------------------------------------------------------------------------- vendors' previews


@pytest.mark.parametrize("suffix", ["vsi", "czi", "isyntax", "VSI", "lif", "ndpis"])
def test_a_vendor_without_a_reader_is_refused(tmp_path, suffix):
    """An Olympus .vsi is a TIFF file with a preview; its pixels are in .ets files in a folder."""
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:1], **JPEG)
    path = Path(path).rename(tmp_path / f"a.{suffix}")
    with pytest.raises(SlideError, match=rf"a\.{suffix}: .* \(\.{suffix.lower()}\) cannot be read; .* Convert"):
        inspect_slide(path)
    with pytest.raises(SlideError, match="cannot be read"):
        read_image(path)


@pytest.mark.parametrize("suffix", ["scn", "bif", "svslide", "vms"])
def test_an_ordinary_image_under_the_suffix_of_a_vendor_is_refused(tmp_path, suffix):
    path = write_pyramid(tmp_path / "a.tif", LEVELS[:1], **JPEG)
    path = Path(path).rename(tmp_path / f"a.{suffix}")
    with pytest.raises(SlideError, match=rf"a\.{suffix}: not a \w+ slide as its suffix \.{suffix} says"):
        inspect_slide(path)


def test_a_single_file_keeps_its_plain_checksum(tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(PIXELS).save(path)
    state = path.stat()
    assert slide_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    assert slide_stamp(str(path)) == inspect_slide(path).stamp == (state.st_size, state.st_mtime_ns)
    assert slide_identity(str(path)) == repr((str(path), state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    assert find_slide_key(str(path)) == ""
