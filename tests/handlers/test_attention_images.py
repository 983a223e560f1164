# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from attention_cases import evidence_of, grey_pyramid, item, make_pyramid, output, show
from ignite.metrics import Accuracy
from monai.data import DataLoader, Dataset
from monai.handlers import from_engine
from monai.transforms import Activationsd, Compose
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import IMAGES, EventAccumulator
from visualize_cases import make_evidence

from monai_jsma.engines import JSMAEvaluator
from monai_jsma.handlers.attention_images import AttentionImageHandler, AttentionImageSaver, picture_name
from monai_jsma.metrics import AttentionOnTruth, AttentionShare
from monai_jsma.visualize import attention_image, draw_card, patch_boxes_image, patch_strip_image

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


class Recorder:
    """A writer that keeps pictures as they are drawn: tag to [(step, image)]."""

    def __init__(self):
        self.written = {}

    def add_image(self, tag, image, step, dataformats):
        assert dataformats == "HWC"
        self.written.setdefault(tag, []).append((step, image))

    def flush(self):
        pass


def recorded(batches, *, decollated=True, epochs=1, **options):
    """What a handler with ``options`` writes of batches."""
    recorder = Recorder()
    handler = AttentionImageHandler(recorder, **options)
    show(batches, handler.attach, decollated=decollated, epochs=epochs)
    return recorder.written


@FORMS
def test_tensorboard_gets_one_picture_and_with_panels_every_map_the_boxes_and_the_strip(decollated):
    pyramid = make_pyramid(noise(SIZE))
    attention, cells, weights = {13: 0.75, 2: 0.25}, (13, 2, 13, 7), (0.4, 0.25, 0.35, 0.0)
    batches = [[row(pyramid, attention, cells, weights)]]
    assert list(recorded(batches, decollated=decollated)) == ["attention/a.png"]

    written = recorded(batches, decollated=decollated, panels=True)
    dense = np.zeros(21)
    dense[[13, 2]] = 0.75, 0.25
    evidence = make_evidence(
        pyramid.geometry, [13, 2], [0.75, 0.25],
        attention=dense, thumbnail=pyramid.thumbnail(SIZE), pyramid=pyramid,
    )  # fmt: skip
    expected = {
        "attention/a.png": draw_card(evidence, title="a.png\n"),
        "attention_map/100X/a.png": attention_image(evidence, 0),
        "attention_map/200X/a.png": attention_image(evidence, 1),
        "patches/boxes/a.png": patch_boxes_image(evidence),
        "patches/strip/a.png": patch_strip_image(evidence),
    }
    assert set(written) == set(expected)
    for tag, image in expected.items():
        ((step, found),) = written[tag]
        assert step == 1
        np.testing.assert_array_equal(found, image)


def test_event_shows_the_attended_cell_in_its_place(tmp_path):
    handler = AttentionImageHandler(log_dir=str(tmp_path), panels=True)
    show([[row(grey_pyramid(SIZE), {6 + 2 * 5 + 1: 1.0})]], handler.attach)  # 200X, row 2, column 1
    handler.close()
    ((_, image),) = events(tmp_path)["attention_map/200X/a.png"]
    grey = (np.abs(image.astype(int) - 100) < 3).all(2)  # JPEG
    rows, cols = np.flatnonzero(grey.mean(1) > 0.15), np.flatnonzero(grey.mean(0) > 0.15)
    place = image[rows[0] : rows[-1], cols[0] : cols[-1]].astype(int)
    hot_rows, hot_cols = np.nonzero(np.ptp(place, axis=2) > 40)
    assert hot_rows.min() / place.shape[0] == pytest.approx(2 / 3, abs=0.01)
    assert hot_rows.max() / place.shape[0] == pytest.approx(1, abs=0.01)
    assert hot_cols.min() / place.shape[1] == pytest.approx(1 / 5, abs=0.01)
    assert hot_cols.max() / place.shape[1] == pytest.approx(2 / 5, abs=0.01)


def test_what_tensorboard_reads_is_what_was_drawn(tmp_path):
    batches = [[row(make_pyramid(noise(SIZE)), {13: 1.0})]]
    handler = AttentionImageHandler(log_dir=str(tmp_path))
    show(batches, handler.attach)
    handler.close()
    ((step, image),) = events(tmp_path)["attention/a.png"]
    ((_, drawn),) = recorded(batches)["attention/a.png"]
    assert step == 1
    assert image.shape == drawn.shape
    assert np.abs(image.astype(int) - drawn).mean() < 4  # JPEG
    (file,) = tmp_path.iterdir()
    assert file.stat().st_size < drawn.size / 4


@FORMS
def test_pictures_of_a_ragged_batch_keep_their_own_grids(decollated):
    large, small = grey_pyramid(SIZE, "a.png"), grey_pyramid((70, 90), "b.png")
    rows = [row(large, {20: 1.0}), row(small, {7: 1.0})]
    written = recorded([rows], decollated=decollated, max_pictures=2, panels=True)
    for pyramid in (large, small):
        dense = np.eye(pyramid.geometry.num_cells)[-1 if pyramid is large else 7]
        thumbnail = pyramid.thumbnail(pyramid.geometry.size)
        evidence = make_evidence(pyramid.geometry, attention=dense, thumbnail=thumbnail)
        expected = attention_image(evidence, 1)
        np.testing.assert_array_equal(written[f"attention_map/200X/{pyramid.path}"][0][1], expected)


def test_steps_follow_interval_and_the_trainers_epoch():
    writer = Recorder()
    every_second = AttentionImageHandler(writer, interval=2, tag_prefix="train_")
    validation = AttentionImageHandler(writer, tag_prefix="val_", global_epoch_transform=lambda epoch: 40 + epoch)
    rows = [[row(grey_pyramid(SIZE))]]
    show(rows, lambda engine: [handler.attach(engine) for handler in (every_second, validation)], epochs=4)
    assert [step for step, _ in writer.written["train_attention/a.png"]] == [2, 4]
    assert [step for step, _ in writer.written["val_attention/a.png"]] == [41, 42, 43, 44]


def test_pictures_are_of_the_whole_list_of_all_classes_right_and_wrong_and_stay_the_same():
    """A list sorted by class, in batches of one class each; in later epochs other images are wrong."""
    pyramids = [grey_pyramid(SIZE, f"{label}/{i}.png") for label in range(3) for i in range(4)]
    epoch = [0]

    def batches():
        epoch[0] += 1
        for label in range(3):
            batch = []
            for i in range(4):
                is_right = i < 2 if epoch[0] == 1 else i >= 2
                entry = row(pyramids[4 * label + i], label=label)
                entry[1]["pred"] = torch.eye(3)[label if is_right else (label + 1) % 3]
                batch.append(entry)
            yield batch

    class Anew:
        def __iter__(self):
            return batches()

        def __len__(self):
            return 3

    written = recorded(Anew(), max_pictures=6, epochs=3)
    names = [tag.removeprefix("attention/") for tag in written]
    assert sorted(name.split("/")[0] for name in names) == ["0", "0", "1", "1", "2", "2"]
    for label in "012":
        numbers = sorted(int(name[2]) for name in names if name[0] == label)
        assert (numbers[0] < 2, numbers[1] >= 2) == (True, True), "one right and one wrong"
    assert [[step for step, _ in images] for images in written.values()] == [[1, 2, 3]] * 6


def test_a_resumed_training_goes_on_with_the_same_images():
    pyramids = [grey_pyramid(SIZE, f"{i}.png") for i in range(6)]

    def batches(num_right):
        """The first are right: another number of them would be another choice."""
        rows = [row(pyramid, label=0) for pyramid in pyramids]
        for i, (_, made) in enumerate(rows):
            made["pred"] = torch.eye(2)[0 if i < num_right else 1]
        return [rows]

    first = AttentionImageHandler(Recorder(), max_pictures=2)
    show(batches(2), first.attach)
    chosen = set(first._writer.written)
    others = [num for num in range(7) if set(recorded(batches(num), max_pictures=2)) != chosen]
    assert others, "the images are not the same by themselves"

    state = first.state_dict()
    resumed = AttentionImageHandler(Recorder(), max_pictures=2)
    resumed.load_state_dict(state)
    show(batches(others[0]), resumed.attach)
    assert set(resumed._writer.written) == chosen

    more = AttentionImageHandler(Recorder(), max_pictures=3)  # another number is asked for
    more.load_state_dict(state)
    show(batches(2), more.attach)
    assert len(more._writer.written) == 3

    moved = AttentionImageHandler(Recorder(), max_pictures=2)  # the images lie in another folder
    moved.load_state_dict({**state, "chosen": [("gone.png", (0, 0), SIZE)]})
    show(batches(2), moved.attach, epochs=2)
    assert set(moved._writer.written) == chosen


def test_only_chosen_pictures_are_read_and_few_patches_of_many():
    shown, other = grey_pyramid(SIZE, "shown.png"), grey_pyramid(SIZE, "other.png")
    rows = [row(p, cells=tuple(range(21)), weights=tuple(i / 210 for i in range(21))) for p in (shown, other)]
    (tag,) = recorded([rows[:1], rows[1:]], max_pictures=1)
    chosen, left = (shown, other) if tag == "attention/shown.png" else (other, shown)
    read = []
    chosen.read = lambda cells: read.append(list(cells)) or np.zeros((len(cells), 3, 40, 40), np.uint8)
    left.read = lambda cells: pytest.fail("an image that is not chosen is read")
    recorded([rows[:1], rows[1:]], max_pictures=1, max_patches=3)
    assert read == [[20, 19, 18]]


def test_the_networks_thumbnail_stays_in_memory():
    pyramid = make_pyramid(noise((1000, 1400)))
    kept = pyramid.thumbnail((30, 50))
    recorded([[row(pyramid)]], panels=True)
    assert list(pyramid._thumbnails) == [(30, 50)]
    np.testing.assert_array_equal(pyramid.thumbnail((30, 50)), kept)


def test_turned_picture_is_drawn_as_it_is_turned():
    pyramid = make_pyramid(noise(SIZE)).oriented(5)  # transposed, columns reversed
    assert pyramid.geometry.grids[1] == (5, 3)
    written = recorded([[row(pyramid, {18: 1.0}, thumbnail=(50, 30))]], panels=True)
    evidence = make_evidence(
        pyramid.geometry, attention=np.eye(21)[18], thumbnail=pyramid.thumbnail((200, 120)), orientation=5
    )
    np.testing.assert_array_equal(written["attention_map/200X/a.png"][0][1], attention_image(evidence, 1))


def test_images_without_a_file_are_numbered_and_none_are_shown_if_none_are_asked_for():
    rows = [row(grey_pyramid(SIZE, "")) for _ in range(3)]
    assert set(recorded([rows[:2], rows[2:]], max_pictures=None)) == {f"attention/image_{i}" for i in range(3)}
    assert recorded([rows], max_pictures=0) == {}


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
    shown = events(tmp_path / "log")
    assert set(shown) < {"attention/0.png", "attention/1.png", "attention/2.png"}
    assert [[step for step, _ in images] for images in shown.values()] == [[7], [7]]
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

    def keep(evidence, *, title, max_patches):
        titles.append(title)
        return np.zeros((1, 1, 3), np.uint8)

    monkeypatch.setattr("monai_jsma.handlers.attention_images.draw_card", keep)
    names = ("Normal", "Benign", "InSitu")
    region = make_pyramid(noise((300, 400)), "a/b.svs", origin=(20, 30))
    entry = row(region, label=1)
    entry[1]["pred"] = torch.tensor([0.1, 0.2, 0.7])
    entry[1]["image"] = torch.zeros(3, 30, 50)  # as the network took it; what was loaded is shown
    show([[entry]], AttentionImageSaver(tmp_path, names).attach)
    show([[entry]], AttentionImageSaver(tmp_path).attach)
    show([[row(grey_pyramid(SIZE))]], AttentionImageSaver(tmp_path, names).attach)
    assert titles == [
        "b.svs, at row 20, column 30\nwrong: true Benign, predicted InSitu (0.70)",
        "b.svs, at row 20, column 30\nwrong: true class 1, predicted class 2 (0.70)",
        "a.png\n",
    ]
    with pytest.raises(ValueError, match="class 3 has no name"):
        show([[row(grey_pyramid(SIZE), label=3)]], AttentionImageSaver(tmp_path, names).attach)


def test_unfinished_file_is_not_left_behind(tmp_path, monkeypatch):
    def fail(image, path, **options):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
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
