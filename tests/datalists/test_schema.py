# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Datalists are checked when they are loaded, and written alike each time."""

from __future__ import annotations

import hashlib
import json
import re
import shutil

import pytest
from dicom_files import write_dicom_slide
from slide_files import picture

from monai_jsma._io import file_sha256
from monai_jsma.datalists.schema import class_names, load_datalist, read_datalist, save_datalist
from monai_jsma.datalists.splits import check_groups, group_of


@pytest.fixture
def write(tmp_path):
    """Writes a datalist beside the images a.png to d.png and returns its path."""
    for name in "abcd":
        (tmp_path / f"{name}.png").write_bytes(name.encode())

    def write(**content):
        path = tmp_path / "datalist.json"
        path.write_text(json.dumps(content))
        return path

    return write


def test_items_keep_their_keys_and_get_a_path(write, tmp_path):
    item = {"image": "a.png", "label": 1, "location": [3, 4], "size": [5, 6], "patient": "P", "level": "100X"}
    (loaded,) = load_datalist(write(training=[item]), "training", num_classes=2)
    assert loaded == {**item, "image": str(tmp_path / "a.png")}


def test_base_dir_and_absolute_paths(write, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "e.png").write_bytes(b"e")
    path = write(test=[{"image": "e.png"}, {"image": str(tmp_path / "a.png")}])
    loaded = load_datalist(path, "test", tmp_path / "sub")
    assert [item["image"] for item in loaded] == [str(tmp_path / "sub" / "e.png"), str(tmp_path / "a.png")]
    with pytest.raises(FileNotFoundError, match=r"1 of 2 images under 'test' are missing: .*e\.png.*base_dir"):
        load_datalist(path, "test", None)


@pytest.mark.parametrize(
    ("content", "override", "expected"),
    [
        ({}, None, [(None, None), (0.25, "datalist")]),
        ({"mpp": 0.5}, None, [(0.5, "datalist"), (0.25, "datalist")]),
        ({"mpp": 0.5, "mpp_source": "scanner"}, None, [(0.5, "scanner"), (0.25, "datalist")]),
        ({"mpp": 0.5, "mpp_source": "scanner"}, 2, [(2, "given"), (2, "given")]),
    ],
)
def test_spacing_of_the_item_then_of_the_datalist_unless_overridden(write, content, override, expected):
    path = write(training=[{"image": "a.png"}, {"image": "b.png", "mpp": 0.25}], **content)
    loaded = load_datalist(path, "training", mpp=override)
    assert [(item.get("mpp"), item.get("mpp_source")) for item in loaded] == expected


@pytest.mark.parametrize("label", [2, -1, "1", 1.0, True, None])
def test_wrong_label(write, label):
    path = write(training=[{"image": "a.png", "label": 0}, {"image": "b.png", "label": label}])
    with pytest.raises(ValueError, match=r"datalist\.json: training\[1\]: the label .* below num_classes=2, but is"):
        load_datalist(path, "training", num_classes=2)


def test_another_number_of_classes_than_is_asked_for(write):
    path = write(training=[{"image": "a.png", "label": i} for i in (0, 1)], labels={"0": "no", "1": "yes"})
    assert len(load_datalist(path, "training", num_classes=2)) == 2
    with pytest.raises(ValueError, match=r"datalist\.json: it names 2 classes in 'labels', but num_classes is 4"):
        load_datalist(path, "training", num_classes=4)


def test_nothing_can_be_learned_from_one_class(write):
    path = write(training=[{"image": "a.png", "label": 1}] * 3, validation=[{"image": "b.png", "label": 1}])
    assert len(load_datalist(path, "validation", num_classes=2)) == 1
    with pytest.raises(ValueError, match=r"datalist\.json: training: all 3 items have the label 1; give it"):
        load_datalist(path, "training", num_classes=2, min_classes=2)


def test_labels_without_a_number_of_classes(write):
    assert load_datalist(write(test=[{"image": "a.png"}, {"image": "b.png", "label": 7}]), "test")[1]["label"] == 7
    with pytest.raises(ValueError, match="whole number from 0, but is 'tumor'"):
        load_datalist(write(test=[{"image": "a.png", "label": "tumor"}]), "test")


@pytest.mark.parametrize("mpp", [0, -1, "0.5", True, float("nan")])
def test_wrong_spacing(write, mpp):
    for content in ({"test": [{"image": "a.png", "mpp": mpp}]}, {"test": [{"image": "a.png"}], "mpp": mpp}):
        with pytest.raises(ValueError, match=r"datalist\.json.*mpp must be a positive number"):
            load_datalist(write(**content), "test")


@pytest.mark.parametrize("item", ["a.png", {}, {"image": ""}, {"image": 3}])
@pytest.mark.parametrize("split", ["training", "test"])
def test_item_without_image(write, item, split):
    content = {"training": [{"image": "a.png"}]} | {split: [item]}
    with pytest.raises(ValueError, match=rf"{split}\[0\]: an item is an object with the path of its 'image'"):
        load_datalist(write(**content), "training")


def test_missing_images_are_counted_and_the_first_named(write):
    path = write(training=[{"image": f"{i}.png"} for i in range(5)] + [{"image": "a.png"}])
    with pytest.raises(FileNotFoundError, match=r"5 of 6 .*0\.png, .*1\.png, .*2\.png, \.\.\. \(5 in all\)"):
        load_datalist(path, "training")


@pytest.mark.parametrize("content", [{}, {"training": []}, {"training": "a.png"}])
def test_unknown_or_empty_split(write, content):
    path = write(validation=[{"image": "a.png"}], **content)
    with pytest.raises(ValueError, match=r"no items under 'training'; it has .*'validation'"):
        load_datalist(path, "training")


@pytest.mark.parametrize(("text", "message"), [(b"{", "not a JSON"), (b"\xff", "not a JSON"), (b"[]", "JSON object")])
def test_broken_file(tmp_path, text, message):
    path = tmp_path / "datalist.json"
    path.write_bytes(text)
    with pytest.raises(ValueError, match=rf"datalist\.json: .*{message}"):
        load_datalist(path, "training")


def test_no_datalist(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.json: there is no such datalist"):
        load_datalist(tmp_path / "none.json", "training")


@pytest.mark.parametrize("key", ["group", "patient"])
def test_group_in_two_splits(write, key):
    path = write(training=[{"image": "a.png", key: "P1"}], test=[{"image": "b.png", key: "P1"}])
    with pytest.raises(ValueError, match=r"P1 in \['test', 'training'\]"):
        load_datalist(path, "training")


def test_image_in_two_splits_leaks_whatever_its_group():
    check_groups({"training": [{"image": "a"}], "test": [{"image": "b"}]})
    with pytest.raises(ValueError, match="a in "):
        check_groups({"training": [{"image": "a", "group": "P1"}], "test": [{"image": "a", "group": "P2"}]})


def test_group_of_an_item():
    assert group_of({"image": "a", "patient": "P", "group": 7}) == "7"
    assert group_of({"image": "a", "patient": "P", "group": ""}) == "P"
    assert group_of({"image": "a", "group": None}) == "a"


def test_saved_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    items = [{"image": "b", "label": 0}, {"image": "a", "label": 1}]
    first = save_datalist({"training": items, "name": "ü"}, tmp_path / "new" / "1.json")
    second = save_datalist({"name": "ü", "training": [dict(reversed(i.items())) for i in items]}, tmp_path / "2.json")
    assert first.read_bytes() == second.read_bytes()
    assert json.loads(first.read_text(encoding="utf-8"))["training"] == items
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["1.json"]


def test_a_datalist_that_cannot_be_saved_leaves_the_old_one(tmp_path):
    path = save_datalist({"training": [{"image": "a"}]}, tmp_path / "d.json")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="one split only"):
        save_datalist({"training": [{"image": "a"}], "test": [{"image": "a"}]}, path)
    with pytest.raises(ValueError, match="JSON"):
        save_datalist({"training": [], "mpp": float("nan")}, path)
    assert path.read_bytes() == before


def test_checksum(tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 100_000)
    assert file_sha256(tmp_path / "f") == hashlib.sha256(b"x" * 100_000).hexdigest()


def test_class_names_are_in_the_order_of_their_numbers(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_text(
        json.dumps({"labels": {"1": "benign", "0": "normal", "10": "k", **{str(i): f"x{i}" for i in range(2, 10)}}})
    )
    assert class_names(path) == ["normal", "benign", *(f"x{i}" for i in range(2, 10)), "k"]
    path.write_text("{}")
    assert class_names(path) is None
    assert class_names(tmp_path / "nowhere.json") is None


@pytest.mark.parametrize("labels", [{"1": "benign", "2": "tumour"}, ["benign", "tumour"], "benign"])
def test_class_names_of_other_numbers(tmp_path, labels):
    path = tmp_path / "datalist.json"
    path.write_text(json.dumps({"labels": labels}))
    with pytest.raises(ValueError, match=r"datalist\.json: 'labels' must name the classes '0', '1', \.\.\. "):
        class_names(path)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": 0, "1": 1}, "name each class by a text, but class 0 is 0; write a name in quotes"),
        ({"0": "benign", "1": None}, "but class 1 is null"),
        ({"0": "benign", "1": float("nan")}, "but class 1 is NaN"),
        ({"0": "benign", "1": " "}, 'but class 1 is " "'),
        ({"0": True, "1": "tumor"}, "but class 0 is true"),
        ({"0": "a", "1": "b", "2": "a"}, "names the classes 0 and 2 both 'a'; give each its own name"),
    ],
)
def test_class_names_are_texts_each_once(tmp_path, labels, message):
    path = tmp_path / "datalist.json"
    items = [{"image": "1.png", "label": 0}]
    path.write_text(json.dumps({"labels": labels, "training": items}))
    with pytest.raises(ValueError, match=rf"datalist\.json: 'labels' .*{re.escape(message)}"):
        class_names(path)
    with pytest.raises(ValueError, match=re.escape(message)):
        load_datalist(path, "training")


def test_a_patient_leaks_even_if_the_groups_are_smaller():
    splits = {name: [{"image": name, "group": f"slide of {name}", "patient": "P"}] for name in ("training", "test")}
    with pytest.raises(ValueError, match=r"found P in \['test', 'training'\]"):
        check_groups(splits)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"location": [3, 4]}, r"'location' \(3, 4\) is without 'size'; give the height and width"),
        ({"location": [3, 4], "size": None}, r"'location' \(3, 4\) is without 'size'"),
        ({"location": [3.5, 4], "size": [5, 6]}, r"'location' must be two whole numbers"),
        ({"size": 256}, r"'size' must be two whole numbers of level-0 pixels, but is 256"),
        ({"location": [3, 4], "size": [5, 6], "level": 0}, r"'location' with 'level' 0 is .* leave 'level' out"),
        ({"location": [3, 4], "size": [5, 6], "level": 2}, r"'location' with 'level' 2 is an item of MONAI's PatchWSI"),
        ({"location": [3, 4], "patch_level": 2, "patch_size": [20, 20]}, r".* 'patch_level' 2 .* center of a patch"),
        ({"location": [3, 4], "patch_size": 20}, r".* 'patch_size' 20 .* in level-0 pixels: convert them"),
    ],
)
def test_a_region_that_could_be_read_at_another_place_is_refused(write, keys, message):
    path = write(test=[{"image": "a.png"}, {"image": "a.png", **keys}])
    with pytest.raises(ValueError, match=rf"test\[1\]: a\.png: {message}"):
        load_datalist(path, "test")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"labels": {"0": "T\xfc"}}'.encode("latin-1"), "not a JSON file in UTF-8 ("),
        ('{"training": []}'.encode("utf-16"), "save it in this encoding."),
        (b'{"training": [], "training": [1]}', "an object has the name 'training' more than once."),
        (b'{"training": ' + 100_000 * b"[" + 100_000 * b"]" + b"}", "its lists lie too deep in each other."),
    ],
)
def test_a_file_that_is_no_datalist_is_named(tmp_path, content, message):
    path = tmp_path / "datalist.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        read_datalist(path)
    assert message in str(raised.value)


def test_a_folder_is_no_datalist(tmp_path):
    with pytest.raises(IsADirectoryError, match=r"this is a folder; name the datalist in it, such as .*datalist\.json"):
        read_datalist(tmp_path)


def test_a_byte_order_mark_is_no_part_of_the_datalist(tmp_path):
    path = tmp_path / "datalist.json"
    path.write_bytes(b'\xef\xbb\xbf{"labels": {"0": "a"}}')
    assert read_datalist(path) == {"labels": {"0": "a"}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"training": [{"image": "caf\udce9.png"}]}, r'as a name is not UTF-8: "image": "caf\\udce9.png"; rename'),
        ({"training": [], "mpp": float("nan")}, "not written, as the datalist cannot be JSON: "),
    ],
)
def test_what_cannot_be_written_is_named_and_leaves_no_file(tmp_path, content, message):
    path = tmp_path / "datalist.json"
    with pytest.raises(ValueError, match=re.escape(str(path))) as raised:
        save_datalist(content, path)
    assert message.replace("\\\\", "\\") in str(raised.value)
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def dicom(tmp_path):
    """The folder of a DICOM slide of two files."""
    pixels = picture(128, 128)
    write_dicom_slide(tmp_path / "f", [pixels, pixels[::2, ::2]])
    return tmp_path / "f"


@pytest.mark.parametrize("image", ["f/level1.dcm", "f", "copy/x.dcm", "copy/without_suffix"])
def test_one_slide_under_two_names_in_two_splits(write, tmp_path, dicom, image):
    """As ``verify`` does, whichever of the two splits is loaded."""
    (tmp_path / "copy").mkdir()
    for name in ("x.dcm", "without_suffix"):
        shutil.copy(dicom / "level0.dcm", tmp_path / "copy" / name)
    path = write(training=[{"image": "f/level0.dcm", "group": "P"}], validation=[{"image": image, "group": "Q"}])
    for split in ("training", "validation"):
        with pytest.raises(
            ValueError, match=r"datalist.json: .* slide must lie in one split only, .*DICOM series [\d.]+"
        ):
            load_datalist(path, split)
    alone = write(training=[{"image": "f/level0.dcm", "group": "P"}, {"image": "f/level1.dcm", "group": "P"}])
    assert len(load_datalist(alone, "training")) == 2


def test_a_slide_of_another_split_need_not_be_here(write):
    path = write(training=[{"image": "a.png"}], test=[{"image": "elsewhere.dcm"}, {"image": "elsewhere.mrxs"}])
    assert len(load_datalist(path, "training")) == 1


def test_a_folder_is_an_image_only_as_a_dicom_slide(write, tmp_path, dicom):
    assert load_datalist(write(training=[{"image": "f"}]), "training")[0]["image"] == str(dicom)
    (tmp_path / "empty").mkdir()
    (tmp_path / "pictures").mkdir()
    shutil.copy(tmp_path / "a.png", tmp_path / "pictures")
    for name in ("empty", "pictures", "."):
        with pytest.raises(ValueError, match=rf"datalist.json: .*{re.escape(str(tmp_path / name))}: is a folder"):
            load_datalist(write(training=[{"image": "a.png"}, {"image": name}]), "training")
