# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Features of other tools take the place of f's where patches and encoder agree, and are refused where not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("h5py")
from feature_cases import counted, thumbnails
from feature_tools import write_trident
from PIL import Image
from slide_files import shared_slide
from tiny_networks import mil_net

from monai_jsma.data import PyramidBatch
from monai_jsma.data.feature_files import read_feature_file
from monai_jsma.networks import PatchEncoder
from monai_jsma.networks.feature_exchange import export_features, import_features, match_cells
from monai_jsma.networks.pretrained import find_weights_package
from monai_jsma.transforms import LoadPyramid

PATCH = 16
HEIGHT, WIDTH = 100, 164  # of level 0, at 0.25 um; patches of 0.5 um cover 32 pixels of it


@pytest.fixture
def image(tmp_path):
    colors = np.random.default_rng(0).integers(256, size=(-(-HEIGHT // 16), -(-WIDTH // 16), 3), dtype=np.uint8)
    pixels = colors.repeat(16, axis=0).repeat(16, axis=1)[:HEIGHT, :WIDTH]
    path = tmp_path / "slide.png"
    Image.fromarray(pixels).save(path)
    return path


def open_image(path, **options):
    settings = {"magnifications": (1.0, 0.5), "patch_size": PATCH, "default_mpp": 0.25, "aligned": True, **options}
    return LoadPyramid(**settings)(path)


def make_net(folder, seed=0):
    """Its f has no normalization, so that its features go with the colors of a patch."""
    torch.manual_seed(seed)
    backbone = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, padding=1), torch.nn.ReLU())
    backbone.num_features = 16
    backbone.mean = backbone.std = (0.5, 0.5, 0.5)
    options = {"patch_encoder": backbone, "frozen": True, "feature_cache": folder}
    return mil_net(patch_size=PATCH, aligned=True, **options)


def tile(path, *, start=(0, 0)):
    """The patches that a tool finds with Pillow, side by side at 0.5 um, and their x and y."""
    picture = Image.open(path)
    corners = []
    patches = []
    for row in range(start[0], HEIGHT - 31, 32):
        for col in range(start[1], WIDTH - 31, 32):
            small = picture.crop((col, row, col + 32, row + 32)).resize((PATCH, PATCH), Image.BOX)
            corners.append((col, row))
            patches.append(np.asarray(small))
    return torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2), np.array(corners)


def encode(net, patches):
    with torch.no_grad():
        return net.eval().patch_encoder.pool(patches).numpy()


def test_features_of_another_tool_are_not_made_again(image, tmp_path):
    """Those that the file has are not encoded, all others are; the logits are those of the network alone."""
    net = make_net(tmp_path / "cache")
    patches, corners = tile(image)
    file = write_trident(tmp_path / "trident/slide.h5", encode(net, patches), corners, size=PATCH, at_level_0=32)
    pyramid = open_image(image)
    assert import_features(net.patch_encoder, pyramid, read_feature_file(file)) == len(corners) == 15
    batch = PyramidBatch([open_image(image)])
    with torch.inference_mode():
        expected = make_net(None)
        expected.load_state_dict(net.state_dict())
        with counted(net) as passes:
            logits = net.eval()(thumbnails(batch), batch)
        torch.testing.assert_close(logits, expected.eval()(thumbnails(batch), batch), atol=1e-3, rtol=1e-3)
    assert sum(passes) == pyramid.geometry.num_cells - 15


def test_the_value_that_is_used_is_the_one_of_the_file(image, tmp_path):
    """A mark on one feature arrives at the same place, and nowhere else."""
    net = make_net(tmp_path / "cache")
    patches, corners = tile(image)
    features = encode(net, patches)
    marked = corners.tolist().index([64, 32])
    features[marked] += 0.001
    file = write_trident(tmp_path / "slide.h5", features, corners, size=PATCH, at_level_0=32)
    import_features(net.patch_encoder, open_image(image), read_feature_file(file))
    pyramid = open_image(image)
    exported = export_features(net.patch_encoder, pyramid)[1]
    assert exported.patch_size == PATCH
    assert exported.size_at_level_0 == pytest.approx(32)
    for place, feature in zip(exported.places.tolist(), exported.features):
        row, col = place
        if row % 32 or col % 32:
            continue  # moved back into the image
        (index,) = [i for i, corner in enumerate(corners.tolist()) if corner == [col, row]]
        np.testing.assert_array_equal(feature, features[index])


def test_cells_are_matched_by_their_place(image, tmp_path):
    """Against a search over all pairs, also in a region, whose cells count from its own corner."""
    _, corners = tile(image)
    features = np.zeros((len(corners), 16), np.float32)
    patches = read_feature_file(write_trident(tmp_path / "slide.h5", features, corners, size=PATCH, at_level_0=32))
    for pyramid in (open_image(image), open_image(image).cropped((32, 64), (68, 100))):
        expected = {}
        for cell in range(pyramid.geometry.num_cells):
            row, col, height, _ = pyramid.box(cell)
            for index, (x, y) in enumerate(corners.tolist()):
                if abs(height - 32) < 1 and abs(row - y) <= 2 and abs(col - x) <= 2:
                    expected[cell] = index
        assert match_cells(pyramid, patches) == expected
        assert len(expected) > 3


def test_known_features_stay(image, tmp_path):
    net = make_net(tmp_path / "cache")
    own = export_features(net.patch_encoder, open_image(image))[1].features
    patches, corners = tile(image)
    features = encode(net, patches) + 0.001
    file = write_trident(tmp_path / "slide.h5", features, corners, size=PATCH, at_level_0=32)
    import_features(net.patch_encoder, open_image(image), read_feature_file(file))
    anew = make_net(tmp_path / "cache")  # as another process reads it
    np.testing.assert_array_equal(export_features(anew.patch_encoder, open_image(image))[1].features, own)


@pytest.mark.parametrize(
    ("options", "file", "message"),
    [
        ({"patch_size": 24}, {}, "its patches have 16 pixels, those of the network 24: set 'patch_size' to 16"),
        ({"magnifications": (0.8,)}, {}, r"0.5 um per pixel where level 0 has 0.25 .* set 'magnifications' to \[0.5\]"),
        ({"default_mpp": 0.2}, {}, r"are 1, 0.5: set 'magnifications' to \[0.4\].*'mpp': 0.25 for 0.5"),
        ({}, {"start": (15, 17)}, "none lies where the network has one: set 'aligned' to true"),
    ],
)
def test_patches_that_do_not_agree_are_refused(image, tmp_path, options, file, message):
    net = make_net(tmp_path / "cache")
    patches, corners = tile(image, **file)
    path = write_trident(tmp_path / "slide.h5", encode(net, patches), corners, size=PATCH, at_level_0=32)
    with pytest.raises(ValueError, match=rf"slide.h5: .*{message}"):
        import_features(net.patch_encoder, open_image(image, **options), read_feature_file(path))
    assert not list((tmp_path / "cache").rglob("*.features"))


@pytest.mark.parametrize("other", ["weights", "input", "order", "length"])
def test_features_of_another_encoder_are_refused(image, tmp_path, other):
    """Other weights, another normalization, features of other patches, or another model: nothing is kept of them."""
    net = make_net(tmp_path / "cache")
    patches, corners = tile(image)
    makers = {
        "weights": lambda: encode(make_net(None, seed=1), patches),
        "input": lambda: encode(net, patches.float() / 255 * 0.4 + 0.1),
        "order": lambda: np.roll(encode(net, patches), 1, axis=0),
        "length": lambda: np.zeros((len(corners), 7), np.float32),
    }
    path = write_trident(tmp_path / "slide.h5", makers[other](), corners, size=PATCH, at_level_0=32)
    message = "have 7 numbers, those of the network's f 16" if other == "length" else "are not those of the network's f"
    with pytest.raises(ValueError, match=message):
        import_features(net.patch_encoder, open_image(image), read_feature_file(path))
    assert not list((tmp_path / "cache").rglob("*.features"))


def test_what_keeps_nothing_is_told(image, tmp_path):
    patches, corners = tile(image)
    path = write_trident(tmp_path / "slide.h5", np.zeros((15, 16), np.float32), corners, size=PATCH, at_level_0=32)
    read = read_feature_file(path)
    with pytest.raises(ValueError, match="the encoder keeps no features: freeze f"):
        import_features(make_net(None).patch_encoder, open_image(image), read)
    pixels = np.array(Image.open(image))
    in_memory = LoadPyramid((0.5,), PATCH, aligned=True)(pixels, mpp=0.25)
    with pytest.raises(ValueError, match="nothing is kept of an image that is no file"):
        import_features(make_net(tmp_path / "cache").patch_encoder, in_memory, read)


def test_a_real_slide_as_openslide_and_pillow_see_it(tmp_path):
    """Patches of twice the slide's spacing, reduced by Pillow's bicubic filter, through an encoder of photographs."""
    slide = shared_slide("cmu-1-small-region.svs")
    if find_weights_package("tf_efficientnet_lite0") is None:
        pytest.skip("the package of weights is not installed")
    openslide = pytest.importorskip("openslide")
    encoder = PatchEncoder("tf_efficientnet_lite0", weights="imagenet", frozen=True, feature_cache=tmp_path).eval()
    corners = [(col, row) for row in range(0, 2967 - 511, 512) for col in range(0, 2220 - 511, 512)]
    patches = []
    with openslide.OpenSlide(slide) as opened:
        for corner in corners:
            region = opened.read_region(corner, 0, (512, 512)).convert("RGB").resize((256, 256), Image.BICUBIC)
            patches.append(np.array(region))
    with torch.no_grad():
        features = encoder.pool(torch.from_numpy(np.stack(patches)).permute(0, 3, 1, 2)).half().numpy()
    path = write_trident(tmp_path / "slide.h5", features, np.array(corners), size=256, at_level_0=512)
    pyramid = LoadPyramid((2 * 0.499,), 256, aligned=True)(slide)
    assert import_features(encoder, pyramid, read_feature_file(path)) == len(corners) == 20
    write_trident(path, features[:, ::-1], np.array(corners), size=256, at_level_0=512)
    with pytest.raises(ValueError, match="are not those of the network's f"):
        import_features(encoder, pyramid, read_feature_file(path))
