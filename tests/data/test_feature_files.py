# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Files of features of other tools are read as they are meant, or refused; ours are in their form."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
import h5py
from feature_tools import read_as_trident, write_clam, write_trident

from monai_jsma.data.feature_files import PatchFeatures, find_feature_file, read_feature_file, write_feature_file

FEATURES = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
CORNERS = np.array([(0, 0), (512, 0), (0, 1024)])  # x and y
PLACES = [[0, 0], [0, 512], [1024, 0]]  # row and column


def test_tridents_file(tmp_path):
    path = write_trident(tmp_path / "slide.h5", FEATURES.astype(np.float16), CORNERS, size=256, at_level_0=512)
    read = read_feature_file(path)
    np.testing.assert_array_equal(read.features, FEATURES.astype(np.float16).astype(np.float32))
    assert read.features.dtype == np.float32
    assert read.places.tolist() == PLACES
    assert (read.patch_size, read.size_at_level_0, read.downsample) == (256, 512, 2)
    with h5py.File(path, "a") as file:  # before it had patch_size_level0
        del file["coords"].attrs["patch_size_level0"]
    assert read_feature_file(path).size_at_level_0 == 512


@pytest.mark.parametrize("kind", ["h5_files/slide.h5", "pt_files/slide.pt"])
def test_clams_files(tmp_path, kind):
    folder = write_clam(tmp_path, "slide", features=FEATURES, corners=CORNERS, size=256, downsample=4.0)
    read = read_feature_file(folder / "features" / kind, folder / "patches")
    np.testing.assert_array_equal(read.features, FEATURES)
    assert read.places.tolist() == PLACES
    assert (read.patch_size, read.size_at_level_0) == (256, 1024)
    with pytest.raises(FileNotFoundError, match=r"does not say where its patches lie .* \(--coords\)"):
        read_feature_file(folder / "features" / kind)
    with pytest.raises(FileNotFoundError, match=r"there are no places of its patches in .*features"):
        read_feature_file(folder / "features" / kind, folder / "features")


def test_a_file_is_found_by_the_name_of_its_slide(tmp_path):
    folder = write_clam(tmp_path, "a.b", features=FEATURES, corners=CORNERS, size=256, downsample=4.0)
    assert find_feature_file(folder / "features", "/slides/a.b.svs") == folder / "features/h5_files/a.b.h5"
    (folder / "features/h5_files/a.b.h5").unlink()
    assert find_feature_file(folder / "features", "a.b.svs") == folder / "features/pt_files/a.b.pt"
    assert find_feature_file(folder / "features", "a.svs") is None


def test_ours_are_read_back_by_their_rules(tmp_path):
    patches = PatchFeatures(features=FEATURES, places=np.array(PLACES) + 0.4, patch_size=256, size_at_level_0=511.7)
    path = tmp_path / "new" / "slide.h5"
    write_feature_file(path, patches, {"level0_magnification": 40, "target_magnification": 20, "overlap": 0})
    features, corners, attributes = read_as_trident(path)
    np.testing.assert_array_equal(features, FEATURES)
    np.testing.assert_array_equal(corners, CORNERS)
    assert corners.dtype == np.int64
    patch = attributes["patch_size"] * attributes["level0_magnification"] // attributes["target_magnification"]
    assert patch == attributes["patch_size_level0"] == 512
    assert read_feature_file(path).places.tolist() == PLACES
    assert [file.name for file in path.parent.iterdir()] == ["slide.h5"]


def damage(path, change):
    with h5py.File(path, "a") as file:
        change(file)


def replace(file, name, values):
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values).attrs.update(attributes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda file: file.__delitem__("features"), "it has no 'features'; name a folder of features"),
        (lambda file: replace(file, "features", FEATURES[:2]), r"features of shape \(2, 5\) for 3 patches"),
        (lambda file: replace(file, "features", np.full((3, 5), np.nan)), "NaN or infinite"),
        (lambda file: replace(file, "coords", CORNERS[:, :1]), r"'coords' of shape \(3, 1\)"),
        (
            lambda file: [file["coords"].attrs.__delitem__(k) for k in ("patch_size_level0", "target_magnification")],
            "do not say how large a patch is in level-0 pixels",
        ),
    ],
)
def test_a_file_that_does_not_say_enough_is_refused(tmp_path, change, message):
    path = write_trident(tmp_path / "slide.h5", FEATURES, CORNERS, size=256, at_level_0=512)
    damage(path, change)
    with pytest.raises(ValueError, match=rf"slide.h5: .*{message}"):
        read_feature_file(path)


def test_broken_files_are_refused(tmp_path):
    path = write_trident(tmp_path / "slide.h5", FEATURES, CORNERS, size=256, at_level_0=512)
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(ValueError, match="no HDF5 file can be read here"):
        read_feature_file(path)
    (tmp_path / "slide.pt").write_bytes(b"no tensor")
    with pytest.raises(ValueError, match=r"slide.pt: no tensor can be read"):
        read_feature_file(tmp_path / "slide.pt")
    torch.save({"features": 1}, tmp_path / "slide.pt")
    with pytest.raises(ValueError, match="it holds a dict"):
        read_feature_file(tmp_path / "slide.pt")


def test_places_of_another_run_are_refused(tmp_path):
    folder = write_clam(tmp_path, "slide", features=FEATURES, corners=CORNERS, size=256, downsample=4.0)
    with h5py.File(folder / "patches/slide.h5", "a") as file:
        file["coords"][0] = (1, 1)
    with pytest.raises(ValueError, match="they are of different runs"):
        read_feature_file(folder / "features/h5_files/slide.h5", folder / "patches")
