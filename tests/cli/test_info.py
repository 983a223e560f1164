# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""``info`` tells what a file is, by value, and refuses in one line what cannot be read."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import tifffile
from PIL import Image
from PIL.TiffImagePlugin import IFDRational
from places import ROOT
from slide_files import levels_of, overwrite, picture, shared_slide, tile_range, write_pyramid

from monai_jsma.__main__ import main
from monai_jsma.data import PatchGeometry, inspect_slide

BACH = ROOT / "bundles" / "bach"


def info(capsys: pytest.CaptureFixture[str], path: Any, *options: str) -> dict[str, Any]:
    assert main(["info", str(path), "--json", *options]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def slide(tmp_path: Path) -> str:
    """Three levels from 600 x 800, of which the last has no whole downsample; Aperio and TIFF disagree on spacing."""
    levels = levels_of(picture(600, 800), [2, 3.9])
    return write_pyramid(tmp_path / "s.svs", levels, compression="jpeg", aperio_mpp=0.25, mpp=0.3)


def test_what_a_slide_is(slide, capsys):
    found = info(capsys, slide)
    assert (found["path"], found["bytes"]) == (slide, os.path.getsize(slide))
    assert (found["reader"], found["reason"], found["lazy"]) == ("cucim", "tiled JPEG, RGB, uint8", True)
    with tifffile.TiffFile(slide) as tif:
        assert [(v["height"], v["width"]) for v in found["levels"]] == [page.shape[:2] for page in tif.pages]
    assert [level["downsample"] for level in found["levels"]] == pytest.approx([1, 2, (600 / 153 + 800 / 205) / 2])
    assert [level["mpp"] for level in found["levels"]] == pytest.approx([0.25, 0.5, 0.25 * (600 / 153 + 800 / 205) / 2])
    assert (found["magnifications"][-1]["name"], found["chosen_by_rule"]) == ("400X", True)


def test_every_source_of_the_spacing_is_told(slide, capsys):
    def verdicts(*options: str) -> list[tuple[str, str]]:
        return [(s["source"], s["verdict"]) for s in info(capsys, slide, *options)["spacings"]]

    assert (info(capsys, slide)["mpp"], info(capsys, slide)["mpp_source"]) == (0.25, "Aperio MPP")
    assert verdicts() == [("Aperio MPP", "used"), ("TIFF resolution", "disagrees: 1.2 times Aperio MPP")]
    assert verdicts("--mpp=0.3") == [("Aperio MPP", "disagrees: 0.833 times given"), ("TIFF resolution", "agrees")]


def test_incredible_spacing(tmp_path, capsys):
    Image.fromarray(picture(80, 90)).save(tmp_path / "a.png", dpi=(72, 72))
    found = info(capsys, tmp_path / "a.png", "--magnifications=100X")
    assert (found["mpp"], found["reader"], found["lazy"], found["levels"][0]["mpp"]) == (None, "pil", False, None)
    assert [s["verdict"] for s in found["spacings"]] == ["rejected: outside 0.05-20"]
    assert [(m["served"], m["reason"]) for m in found["magnifications"]] == [
        (False, "the spacing of the file is unknown; give --mpp")
    ]
    assert main(["info", str(tmp_path / "a.png")]) == 0
    out = capsys.readouterr().out
    assert "spacing  unknown; give --mpp" in out
    assert "magnification" not in out


def test_magnifications_it_can_serve(slide, capsys):
    found = info(capsys, slide, "--magnifications=200X,0.25, 800X", "--patch-size=100")
    expected = PatchGeometry((600, 800), 0.25, (0.5, 0.25), 100)
    assert [m["mpp"] for m in found["magnifications"]] == [0.5, 0.25, 0.125]
    assert [m["served"] for m in found["magnifications"]] == [True, True, False]
    assert [m["grid"] for m in found["magnifications"]] == [*map(list, expected.grids), None]
    assert found["cells"] == expected.num_cells == 60
    assert not found["chosen_by_rule"]
    assert found["magnifications"][2]["reason"] == "finer than the file's 0.25 um/px"


@pytest.mark.parametrize(
    ("options", "names", "grids"),
    [
        ([], ["100X", "200X", "400X"], [[1, 1], [2, 2], [3, 3]]),
        (["--patch-size=100"], ["50X", "100X", "200X", "400X"], [[1, 1], [2, 2], [3, 4], [6, 8]]),
        (["--finest=200X"], ["100X", "200X"], [[1, 1], [2, 2]]),
        (["--finest=0.2", "--patch-size=400"], ["100X", "200X", "400X"], [[1, 1], [1, 2], None]),
        (["--finest=4", "--patch-size=100"], ["25X"], [[1, 1]]),
    ],
)
def test_magnifications_that_the_rule_chooses(slide, capsys, options, names, grids):
    """Of 600 x 800 pixels of 0.25 um, from the file's own spacing on or from another."""
    found = info(capsys, slide, *options)
    assert found["chosen_by_rule"]
    assert [m["name"] for m in found["magnifications"]] == names
    assert [m["grid"] for m in found["magnifications"]] == grids
    assert found["cells"] == sum(rows * cols for rows, cols in filter(None, grids))
    assert main(["info", slide, *options]) == 0
    assert capsys.readouterr().out.endswith("pixels; chosen by rule: halved until one patch covers the image\n")


def test_magnifications_of_the_bundle(slide, tmp_path, capsys):
    found = info(capsys, slide, f"--bundle={BACH}")
    assert [(m["name"], m["mpp"]) for m in found["magnifications"]] == [("50X", 1.68), ("100X", 0.84), ("200X", 0.42)]
    assert found["patch_size"] == 299
    assert found["cells"] == PatchGeometry((600, 800), 0.25, (1.68, 0.84, 0.42), 299).num_cells
    assert info(capsys, slide, f"--bundle={BACH}", "--patch-size=100")["patch_size"] == 100
    Image.fromarray(picture(1536, 2048)).save(tmp_path / "bach.png")
    found = info(capsys, tmp_path / "bach.png", f"--bundle={BACH}")
    assert (found["mpp"], found["mpp_source"], found["cells"]) == (0.42, f"default of {BACH}", 58)


def test_text_says_the_same(slide, capsys):
    assert main(["info", slide, "--magnifications=200X,800X"]) == 0
    out, error = capsys.readouterr()
    lines = out.splitlines()
    assert lines[0] == f"file     {slide} ({os.path.getsize(slide):,} bytes)"
    assert lines[1:4] == [
        "reader   cucim: tiled JPEG, RGB, uint8",
        "pixels   read from the file as needed",
        "spacing  0.25 um/px (Aperio MPP)",
    ]
    assert lines[4:6] == [
        "         Aperio MPP 0.25 um/px: used",
        "         TIFF resolution 0.3 um/px: disagrees: 1.2 times Aperio MPP",
    ]
    assert [line.split() for line in lines[8:10]] == [["0", "600", "800", "1", "0.25"], ["1", "300", "400", "2", "0.5"]]
    assert lines[-3].split() == ["200X", "0.5", "yes", "2x2", "4"]
    assert lines[-2].endswith("no     -      0  finer than the file's 0.25 um/px")
    assert lines[-1] == "4 cells in all, with patches of 299 pixels"


def test_why_another_reader(tmp_path, capsys):
    path = write_pyramid(tmp_path / "a.tif", [picture(100, 100)], compression="deflate", predictor=True)
    assert info(capsys, path)["reader"] == "tifffile"
    assert "cuCIM crashes on Deflate with predictor" in info(capsys, path)["reason"]
    assert info(capsys, path, "--reader=openslide")["reader"] == "openslide"
    assert main(["info", path, "--reader=cucim"]) == 1
    assert "reader='cucim' cannot read it" in capsys.readouterr().err


def spoilt(tmp_path: Path, how: str) -> Path:
    path = tmp_path / ("a.svs" if how != "none" else "none.svs")
    if how == "text":
        path.write_text("no picture")
    elif how == "empty":
        path.touch()
    elif how != "none":
        write_pyramid(path, [picture(300, 300)], compression="jpeg")
        if how == "cut":
            os.truncate(path, os.path.getsize(path) - 2000)
        else:
            overwrite(path, *(lambda first, count: (first, bytes(count)))(*tile_range(path, 0, 12)))
    return path


@pytest.mark.parametrize("how", ["none", "text", "empty", "cut", "zeroed tile"])
def test_unreadable_file_is_one_line(tmp_path, capsys, how):
    path = spoilt(tmp_path, how)
    assert main(["info", str(path)]) == 1
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith(f"error: {path}: ")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mpp=352"], "mpp=352.0 is outside 0.05-20"),
        (["--magnifications=big"], "'big' is no magnification"),
        (["--finest=big"], "'big' is no magnification"),
        (["--finest=50X,100"], "'50X,100' is no magnification"),
        (["--finest=0"], "mpp must be a positive number"),
        (["--reader=vips"], "reader='vips' is not one of"),
        (["--bundle=nowhere"], "no such file; name the folder of the bundle"),
    ],
)
def test_wrong_option_is_one_line(slide, capsys, options, message):
    assert main(["info", slide, *options]) == 1
    assert message in capsys.readouterr().err


def test_bundle_without_magnifications(slide, tmp_path, capsys):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text("{}")
    assert main(["info", slide, f"--bundle={tmp_path}"]) == 1
    assert "has no 'magnifications'; give --magnifications" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "reader", "levels", "mpp"),
    [
        ("cmu-1-small-region.svs", "cucim", [(2967, 2220)], 0.499),
        ("tcga-cr-7395-01a-01-ts1.svs", "tifffile", [(3567, 4443), (1783, 2221)], None),
        ("os_boxes.tiff", "tifffile", [(250, 300), (125, 150), (62, 75), (31, 37)], None),
        ("kidney-48-5.tif", "pil", [(901, 1493)], None),
    ],
)
def test_real_slides(capsys, name, reader, levels, mpp):
    found = info(capsys, shared_slide(name))
    assert (found["reader"], found["mpp"]) == (reader, mpp)
    assert [(level["height"], level["width"]) for level in found["levels"]] == levels


@pytest.mark.parametrize("name", ["broken.svs", "os_unopenable.tiff", "os_unreadable.svs"])
def test_real_files_that_cannot_be_read(capsys, name):
    assert main(["info", shared_slide(name)]) == 1
    assert capsys.readouterr().err.startswith(f"error: {shared_slide(name)}: ")


def test_spacings_do_not_tell_infos_apart(slide):
    """They may hold NaN: two looks at one file are equal, so that an open slide is found again."""
    first, second = inspect_slide(slide), inspect_slide(slide)
    assert first == second
    assert hash(first) == hash(second)
    assert [s.source for s in first.spacings] == ["Aperio MPP", "TIFF resolution"]


def test_a_spacing_with_a_decimal_comma(tmp_path, capsys):
    path = write_pyramid(tmp_path / "a.tif", levels_of(picture(200, 260), [2]))
    assert main(["info", path, "--mpp=0,25", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["mpp"] == 0.25
    with pytest.raises(SystemExit):
        main(["info", path, "--mpp=1.000,5"])
    assert "argument --mpp: '1.000,5' is not a number with one decimal point or comma" in capsys.readouterr().err


def test_the_default_of_a_bundle_in_place_of_a_statement(tmp_path, capsys, caplog):
    path = tmp_path / "camera.jpg"
    exif = Image.Exif()
    exif[0x011A] = exif[0x011B] = IFDRational(300)
    exif[0x0128] = 2
    Image.fromarray(picture(1200, 1200)).save(path, exif=exif)
    assert main(["info", str(path), "--bundle", str(BACH), "--json"]) == 0
    content = json.loads(capsys.readouterr().out)
    assert (content["mpp"], content["mpp_source"][:7]) == (0.42, "default")
    assert "EXIF resolution 84.667 um/px rejected: outside 0.05-20; the default of 0.42 um/px" in caplog.text
