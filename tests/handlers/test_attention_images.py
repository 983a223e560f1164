# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from attention_cases import evidence_of, grey_pyramid, item, make_pyramid, output, show
from ignite.metrics import Accuracy
from matplotlib.figure import Figure
from monai.data import DataLoader, Dataset
from monai.handlers import from_engine
from monai.transforms import Activationsd, Compose
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from torch.utils.tensorboard import SummaryWriter
from visualize_cases import make_evidence

from monai_jsma.engines import JSMAEvaluator
from monai_jsma.handlers.attention_images import AttentionImageHandler, AttentionImageSaver, picture_name
from monai_jsma.metrics import AttentionOnTruth, AttentionShare
from monai_jsma.visualize import attention_image, patch_boxes_image, patch_strip_image

SIZE = (120, 200)  # 2 x 3 cells at 100X, then 3 x 5 at 200X
FORMS = pytest.mark.parametrize("decollated", [True, False], ids=["decollated", "collated"])


def events(folder):
    """Tag to [(step, image)], as TensorBoard reads them."""
    accumulator = EventAccumulator(str(folder), size_guidance={IMAGES: 0})
    accumulator.Reload()
    return {
        tag: [(e.step, np.asarray(Image.open(io.BytesIO(e.encoded_image_string)))) for e in accumulator.Images(tag)]
        for tag in accumulator.Tags()["images"]
    }


def noise(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def row(pyramid, attention=None, cells=(0,), weights=(1.0,), **more):
    return item(pyramid, **more), output(pyramid, attention or {0: 1.0}, cells, weights)


@FORMS
def test_tensorboard_gets_every_map_the_boxes_and_the_strip(tmp_path, decollated):
    pyramid = make_pyramid(noise(SIZE))
    attention, cells, weights = {13: 0.75, 2: 0.25}, (13, 2, 13, 7), (0.4, 0.25, 0.35, 0.0)
    handler = AttentionImageHandler(log_dir=str(tmp_path))
    show([[row(pyramid, attention, cells, weights)]], handler.attach, decollated=decollated)
    handler.close()
    written = events(tmp_path)
    assert {tag: [step for step, _ in images] for tag, images in written.items()} == {
        "attention/100X/0": [1],
        "attention/200X/0": [1],
        "patches/boxes/0": [1],
        "patches/strip/0": [1],
    }
    dense = np.zeros(21)
    dense[[13, 2]] = 0.75, 0.25
    evidence = make_evidence(
        pyramid.geometry, [13, 2], [0.75, 0.25],
        attention=dense, thumbnail=pyramid.thumbnail((30, 50)), patches=pyramid.read([13, 2]),
    )  # fmt: skip
    expected = {
        "attention/100X/0": attention_image(evidence, 0),
        "attention/200X/0": attention_image(evidence, 1),
        "patches/boxes/0": patch_boxes_image(evidence),
        "patches/strip/0": patch_strip_image(evidence),
    }
    for tag, image in expected.items():
        np.testing.assert_array_equal(written[tag][0][1], image)


def test_event_shows_the_attended_cell_in_its_place(tmp_path):
    handler = AttentionImageHandler(log_dir=str(tmp_path))
    show([[row(grey_pyramid(SIZE), {6 + 2 * 5 + 1: 1.0})]], handler.attach)  # 200X, row 2, column 1
    handler.close()
    ((_, image),) = events(tmp_path)["attention/200X/0"]
    grey = (image == 100).all(2)
    rows, cols = np.flatnonzero(grey.mean(1) > 0.15), np.flatnonzero(grey.mean(0) > 0.15)
    place = image[rows[0] : rows[-1], cols[0] : cols[-1]].astype(int)
    hot_rows, hot_cols = np.nonzero(np.ptp(place, axis=2) > 40)
    assert hot_rows.min() / place.shape[0] == pytest.approx(2 / 3, abs=0.01)
    assert hot_rows.max() / place.shape[0] == pytest.approx(1, abs=0.01)
    assert hot_cols.min() / place.shape[1] == pytest.approx(1 / 5, abs=0.01)
    assert hot_cols.max() / place.shape[1] == pytest.approx(2 / 5, abs=0.01)


@FORMS
def test_pictures_of_a_ragged_batch_keep_their_own_grids(tmp_path, decollated):
    large, small = grey_pyramid(SIZE, "a.png"), grey_pyramid((70, 90), "b.png")
    handler = AttentionImageHandler(log_dir=str(tmp_path), max_pictures=2)
    show([[row(large, {20: 1.0}), row(small, {7: 1.0}), row(large)]], handler.attach, decollated=decollated)
    handler.close()
    written = events(tmp_path)
    assert {tag.rsplit("/", 1)[1] for tag in written} == {"0", "1"}, "max_pictures is 2"
    for i, pyramid in enumerate((large, small)):
        dense = np.eye(pyramid.geometry.num_cells)[-1 if pyramid is large else 7]
        evidence = make_evidence(pyramid.geometry, attention=dense, thumbnail=pyramid.thumbnail((30, 50)))
        expected = attention_image(evidence, 1)
        np.testing.assert_array_equal(written[f"attention/200X/{i}"][0][1], expected)


def test_steps_follow_interval_and_the_trainers_epoch(tmp_path):
    writer = SummaryWriter(str(tmp_path))
    every_second = AttentionImageHandler(writer, interval=2, tag_prefix="train_")
    validation = AttentionImageHandler(writer, tag_prefix="val_", global_epoch_transform=lambda epoch: 40 + epoch)
    rows = [[row(grey_pyramid(SIZE))]]
    show(rows, lambda engine: [handler.attach(engine) for handler in (every_second, validation)], epochs=4)
    writer.close()
    written = events(tmp_path)
    assert [step for step, _ in written["train_patches/boxes/0"]] == [2, 4]
    assert [step for step, _ in written["val_patches/boxes/0"]] == [41, 42, 43, 44]


def test_last_batch_is_shown_and_few_patches_of_many_are_read(tmp_path):
    last, other = grey_pyramid(SIZE, "shown.png"), grey_pyramid(SIZE, "other.png")
    read = []
    last.read = lambda cells: read.append(list(cells)) or np.zeros((len(cells), 3, 40, 40), np.uint8)
    other.read = lambda cells: pytest.fail("the first batch is not shown")
    handler = AttentionImageHandler(log_dir=str(tmp_path), max_patches=3)
    cells, weights = tuple(range(21)), tuple(i / 210 for i in range(21))
    show([[row(other)], [row(last, cells=cells, weights=weights)]], handler.attach)
    handler.close()
    assert read == [[20, 19, 18]]


def test_turned_picture_is_drawn_as_it_is_turned(tmp_path):
    pyramid = make_pyramid(noise(SIZE)).oriented(5)  # transposed, columns reversed
    assert pyramid.geometry.grids[1] == (5, 3)
    handler = AttentionImageHandler(log_dir=str(tmp_path))
    show([[row(pyramid, {18: 1.0}, thumbnail=(50, 30))]], handler.attach)
    handler.close()
    evidence = make_evidence(
        pyramid.geometry, attention=np.eye(21)[18], thumbnail=pyramid.thumbnail((50, 30)), orientation=5
    )
    expected = attention_image(evidence, 1)
    np.testing.assert_array_equal(events(tmp_path)["attention/200X/0"][0][1], expected)


@pytest.mark.parametrize("missing", ["pyramid", "attention"])
@FORMS
def test_engine_without_pyramids_or_attention_is_refused(tmp_path, missing, decollated):
    data, made = row(grey_pyramid(SIZE))
    (data if missing == "pyramid" else made).pop(missing)
    with pytest.raises(ValueError, match="'pyramid' .* and 'attention' .* are needed"):
        show([[(data, made)]], AttentionImageSaver(tmp_path).attach, decollated=decollated)


class Network(torch.nn.Module):
    """Attends to cell 13 (200X) alone and finds class 1."""

    def forward(self, image, pyramid=None, return_attention=False):
        attention = torch.eye(21)[13].repeat(len(image), 1)
        cells, weights = torch.tensor([[13, 0]] * len(image)), torch.tensor([[1.0, 0.0]] * len(image))
        logits = torch.tensor([[0.0, 5.0]] * len(image))
        return {"logits": logits, "attention": attention, "cells": cells, "weights": weights}


def test_evaluator_with_postprocessing_shows_and_measures(tmp_path):
    entries = [item(grey_pyramid(SIZE, f"{i}.png"), label=i % 2, cell=[13, 14], level="200X") for i in range(3)]
    handler, saver = AttentionImageHandler(log_dir=str(tmp_path / "log")), AttentionImageSaver(tmp_path / "maps")
    evaluator = JSMAEvaluator(
        device=torch.device("cpu"),
        val_data_loader=DataLoader(Dataset(entries), batch_size=2),
        network=Network(),
        postprocessing=Compose([Activationsd("pred", softmax=True)]),
        key_val_metric={"accuracy": Accuracy(output_transform=from_engine(["pred", "label"]))},
        additional_metrics={"attention": AttentionShare(), "truth": AttentionOnTruth()},
        val_handlers=[handler, saver],
    )
    evaluator.run(7)
    handler.close()
    assert evaluator.state.metrics["accuracy"] == pytest.approx(1 / 3)
    assert evaluator.state.metrics["attention_share_200X"] == 1
    assert evaluator.state.metrics["truth_cell_attention"] == 1
    assert evaluator.state.metrics["truth_cell_drawn"] == 1
    assert [step for step, _ in events(tmp_path / "log")["attention/200X/0"]] == [7]
    assert sorted(f.name[0] for f in (tmp_path / "maps").iterdir()) == ["0", "1", "2"]


# ---------------------------------------------------------------------------------------------------------- PNG files


def shown(pyramid, **more):
    return evidence_of(pyramid, output(pyramid, {0: 1.0}, (0,), (1.0,)), image=item(pyramid)["image"], **more)


@FORMS
def test_one_png_a_picture_and_again_the_same(tmp_path, decollated):
    rows = [row(make_pyramid(noise(SIZE, i), f"slides/{i}.png"), label=i) for i in range(3)]
    saver = AttentionImageSaver(tmp_path / "maps")
    show([rows[:2], rows[2:]], saver.attach, decollated=decollated)
    files = sorted((tmp_path / "maps").iterdir())
    assert [f.name for f in files] == [f"{picture_name(shown(r[0]['pyramid']))}.png" for r in rows]
    assert [f.name.split("_")[0] for f in files] == ["0", "1", "2"]
    first = [np.asarray(Image.open(f).convert("RGB")) for f in files]
    assert not np.array_equal(first[0], first[1])
    show([rows[2:], rows[:2]], saver.attach, decollated=decollated)
    assert sorted((tmp_path / "maps").iterdir()) == files
    for file, image in zip(files, first):
        np.testing.assert_array_equal(np.asarray(Image.open(file).convert("RGB")), image)


def test_names_are_unique_and_safe():
    pixels = noise((300, 400))
    pyramids = [
        make_pyramid(pixels, "a/Ünsafe: name*.svs"),
        make_pyramid(pixels, "b/Ünsafe: name*.svs"),
        make_pyramid(pixels, "a/Ünsafe: name*.svs", origin=(20, 30)),
        make_pyramid(pixels, "a/Ünsafe: name*.svs", origin=(20, 30), size=(99, 99)),
        make_pyramid(pixels, "a/..." + "x" * 300 + ".svs"),
    ]
    names = [picture_name(shown(p)) for p in pyramids]
    assert len(set(names)) == 5
    assert names[2].startswith("_nsafe_name__r20_c30_")
    assert all(set(name) <= set("abcdefghijklmnopqrstuvwxyzX0123456789._-") for name in names)
    assert all(len(name) < 140 and not name.startswith(".") for name in names)
    with pytest.raises(ValueError, match="without a file name"):
        picture_name(shown(make_pyramid(pixels, "")))


def test_title_names_file_region_and_classes(tmp_path, monkeypatch):
    titles = []

    def keep(figure, path, **options):
        titles.append(figure.texts[0].get_text())
        path.write_bytes(b"")

    monkeypatch.setattr(Figure, "savefig", keep)
    names = ("Normal", "Benign", "InSitu")
    region = make_pyramid(noise((300, 400)), "a/b.svs", origin=(20, 30))
    entry = row(region, label=1)
    entry[1]["pred"] = torch.tensor([0.1, 0.2, 0.7])
    entry[1]["image"] = torch.zeros(3, 30, 50)  # as the network took it; what was loaded is shown
    show([[entry]], AttentionImageSaver(tmp_path, names).attach)
    show([[entry]], AttentionImageSaver(tmp_path).attach)
    show([[row(grey_pyramid(SIZE))]], AttentionImageSaver(tmp_path, names).attach)
    assert titles == [
        "b.svs, at row 20, column 30, true Benign, predicted InSitu",
        "b.svs, at row 20, column 30, true class 1, predicted class 2",
        "a.png",
    ]
    with pytest.raises(ValueError, match="class 3 has no name"):
        show([[row(grey_pyramid(SIZE), label=3)]], AttentionImageSaver(tmp_path, names).attach)


def test_unfinished_file_is_not_left_behind(tmp_path, monkeypatch):
    def fail(figure, path, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Figure, "savefig", fail)
    with pytest.raises(OSError, match="No space"):
        show([[row(grey_pyramid(SIZE))]], AttentionImageSaver(tmp_path).attach)
    assert list(tmp_path.iterdir()) == []


def test_max_pictures_counts_each_evaluation_anew(tmp_path):
    rows = [row(grey_pyramid(SIZE, f"{i}.png")) for i in range(5)]
    saver = AttentionImageSaver(tmp_path, max_pictures=3)
    show([rows[:2], rows[2:]], saver.attach)
    assert sorted(f.name[0] for f in tmp_path.iterdir()) == ["0", "1", "2"]
    show([rows[3:]], saver.attach)
    assert sorted(f.name[0] for f in tmp_path.iterdir()) == ["0", "1", "2", "3", "4"]
