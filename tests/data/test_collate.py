# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""Pyramids in MONAI's datasets, loaders, worker processes and batches."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
import threading
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from monai.data import (
    CacheDataset,
    DataLoader,
    Dataset,
    MetaTensor,
    PersistentDataset,
    decollate_batch,
    list_data_collate,
    pad_list_data_collate,
)
from monai.transforms import Compose, Randomizable, SelectItemsd
from monai.utils import set_determinism
from PIL import Image
from pyramid_cases import LevelsReader, every_cell, in_blocks, noise
from slide_files import picture, write_pyramid

from monai_jsma.data import ArrayReader, Pyramid, PyramidBatch
from monai_jsma.data.batch import reading_threads
from monai_jsma.transforms import LoadPyramidd, PyramidThumbnaild, RandPyramidOrientationd, RandPyramidStaind

SIZES = [(40, 40), (56, 56), (33, 33), (40, 64)]


def pyramid_of(height, width, seed=0) -> Pyramid:
    return Pyramid(ArrayReader(noise(height, width, seed)), mpp=1.0, magnifications=(1.0, 2.0), patch_size=8)


@pytest.fixture
def items(tmp_path) -> list[dict]:
    """A slide on disk, its region, and plain pictures."""
    slide = write_pyramid(tmp_path / "slide.tif", [picture(64, 64), picture(32, 32)], tile=(16, 16))
    items = [{"image": slide}, {"image": slide, "location": [3, 5], "size": [50, 40]}]
    for i, size in enumerate(SIZES):
        Image.fromarray(noise(*size, i)).save(tmp_path / f"{i}.png")
        items.append({"image": str(tmp_path / f"{i}.png")})
    return [{"mpp": 1.0, "label": i, **item} for i, item in enumerate(items)]


def pipeline() -> Compose:
    return Compose(
        [
            LoadPyramidd("image", (1.0, 2.0), 8),
            RandPyramidOrientationd("image"),
            RandPyramidStaind("image", prob=0.7),
            PyramidThumbnaild("image", (5, 7)),
            SelectItemsd(["image", "pyramid", "label"]),
        ]
    )


def views(loader) -> list:
    """All that random transforms decide, in the order of the loader, and pixels of thumbnails and patches."""
    return [
        (label, it.orientation, it.stain, image.sum().item(), it.read([0, 3]).sum())
        for batch in loader
        for label, it, image in zip(batch["label"].tolist(), batch["pyramid"], batch["image"].as_tensor(), strict=True)
    ]


# --------------------------------------------------------------------------------------------------------------- batch


@pytest.mark.parametrize("collate", [list_data_collate, pad_list_data_collate, torch.utils.data.default_collate])
def test_collate_makes_one_batch_of_pictures_of_any_size(items, collate):
    data = [pipeline().set_random_state(i)(item) for i, item in enumerate(items[2:])]
    batch = collate(data)
    assert type(batch["pyramid"]) is PyramidBatch
    assert [one is other["pyramid"] for one, other in zip(batch["pyramid"], data, strict=True)] == [True] * 4
    assert batch["pyramid"].grids == [d["pyramid"].geometry.grids for d in data]
    assert batch["pyramid"].grids[3] == ((3, 4), (5, 8))
    assert batch["image"].dtype == torch.uint8
    assert batch["image"].shape == (4, 3, 5, 7)
    assert isinstance(batch["image"], MetaTensor)
    for image, one in zip(batch["image"], data):
        np.testing.assert_array_equal(image.numpy(), one["pyramid"].thumbnail((5, 7)))
    if collate is not torch.utils.data.default_collate:
        assert batch["image"].meta["filename_or_obj"] == [item["image"] for item in items[2:]]
        assert batch["image"].meta["size"].tolist() == [list(d["pyramid"].geometry.size) for d in data]


def test_decollate_gives_the_pyramids_back_whole(items):
    batch = list_data_collate([pipeline()(item) for item in items])
    for detach in (True, False):
        singles = decollate_batch(batch, detach=detach)
        assert len(singles) == len(items)
        for single, it, item in zip(singles, batch["pyramid"], items):
            assert single["pyramid"] is it
            assert single["label"] == item["label"]
            assert single["image"].meta["filename_or_obj"] == item["image"]
            np.testing.assert_array_equal(single["image"].numpy(), it.thumbnail((5, 7)))


def requests(batch, n=40, seed=0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    pictures = torch.randint(len(batch), (n,), generator=generator)
    cells = [int(torch.randint(batch[i].geometry.num_cells, (), generator=generator)) for i in pictures.tolist()]
    return pictures, torch.tensor(cells)


def test_a_batch_reads_in_the_order_of_the_request(items):
    """Slides through threads and plain pictures one by one, as each pyramid alone."""
    load = LoadPyramidd("image", (1.0, 2.0), 8)
    for chosen in (items, items[:2], items[2:]):
        batch = PyramidBatch(load(item)["image"].oriented(3) for item in chosen)
        pictures, cells = requests(batch)
        patches = batch.read(pictures, cells)
        assert patches.dtype == torch.uint8
        expected = [batch[i].read([c])[0] for i, c in zip(pictures.tolist(), cells.tolist())]
        np.testing.assert_array_equal(patches.numpy(), expected)
        nothing = batch.read(pictures[:0], cells[:0])
        assert nothing.shape == (0, 3, 8, 8)
        assert nothing.dtype == torch.uint8


def test_slides_are_read_by_several_threads_and_pictures_in_memory_by_one(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2}, raising=False)
    reading_threads.cache_clear()
    seen, both = set(), threading.Barrier(2, timeout=20)

    class Slow(LevelsReader):
        def _read(self, *window):
            seen.add(threading.get_ident())
            both.wait()  # no thread goes on before another has come
            return super()._read(*window)

    slide = Pyramid(Slow(in_blocks(40, 40, (2,))), mpp=1.0, magnifications=(1.0,), patch_size=8)
    for _ in range(2):
        PyramidBatch([slide]).read(torch.zeros(12, dtype=torch.long), torch.arange(12))
    assert threading.get_ident() not in seen
    assert 2 <= len(seen) <= 3  # the second read starts no others
    reading_threads.cache_clear()

    in_memory = pyramid_of(40, 40)
    read = ArrayReader._read
    monkeypatch.setattr(ArrayReader, "_read", lambda self, *w: seen.add(threading.get_ident()) or read(self, *w))
    seen.clear()
    PyramidBatch([in_memory]).read(torch.zeros(12, dtype=torch.long), torch.arange(4, 16))
    assert seen == {threading.get_ident()}


def test_a_forked_child_reads_with_threads_of_its_own():
    slide = Pyramid(LevelsReader(in_blocks(40, 40, (2,))), mpp=1.0, magnifications=(1.0,), patch_size=8)
    batch, twelve = PyramidBatch([slide]), torch.arange(12)
    expected = batch.read(torch.zeros_like(twelve), twelve)
    with multiprocessing.get_context("fork").Pool(1) as pool:
        found = pool.apply_async(batch.read, (torch.zeros_like(twelve), twelve)).get(timeout=30)
    assert torch.equal(found, expected)


# ------------------------------------------------------------------------------------------------------------- loaders


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_repeat_their_draws_under_a_seed(items, workers):
    results = []
    for seed in (4, 4, 5):
        set_determinism(seed=seed)
        loader = DataLoader(Dataset(items, pipeline()), batch_size=2, num_workers=workers, shuffle=True)
        results.append([views(loader), views(loader)])  # two epochs
        set_determinism(seed=None)
    assert results[0] == results[1]
    first, second = results[0]
    assert [sorted(label for label, *_ in epoch) for epoch in (first, second)] == [list(range(6))] * 2
    assert sorted(first, key=str) != sorted(second, key=str)
    assert results[2] != results[0]


def test_workers_draw_differently(items):
    set_determinism(seed=0)
    loader = DataLoader(Dataset(items[2:3] * 16, pipeline()), batch_size=1, num_workers=2)
    result = views(loader)  # one picture, 8 times from each worker in turn
    set_determinism(seed=None)
    assert [view[1:3] for view in result[::2]] != [view[1:3] for view in result[1::2]]
    assert len({orientation for _, orientation, *_ in result}) > 3


def test_spawned_workers_give_the_same_as_forked_ones(items):
    results = []
    for method in ("fork", "spawn"):
        set_determinism(seed=4)
        loader = DataLoader(Dataset(items, pipeline()), batch_size=3, num_workers=1, multiprocessing_context=method)
        results.append(views(loader))
        set_determinism(seed=None)
    assert results[0] == results[1]


def test_pyramids_of_workers_are_those_of_this_process(items):
    """What crosses the process border keeps its pixels, and its file where it has one."""
    load = Compose([transform for transform in pipeline().transforms if not isinstance(transform, Randomizable)])
    for workers in (0, 2):
        for batch in DataLoader(Dataset(items, load), batch_size=2, num_workers=workers):
            assert type(batch["pyramid"]) is PyramidBatch
            for it, label in zip(batch["pyramid"], batch["label"].tolist()):
                alone = load(items[label])["pyramid"]
                assert (it.path, it.origin, it.geometry) == (alone.path, alone.origin, alone.geometry)
                np.testing.assert_array_equal(it.read(every_cell(it)), alone.read(every_cell(it)))


@pytest.mark.parametrize("change", [lambda a: a, lambda a: a[::-1, ::2], lambda a: np.broadcast_to(a[:1], a.shape)])
def test_pictures_in_memory_cross_in_shared_memory(change):
    pixels = change(noise(300, 400))  # as it is, with strides, read-only
    reader = ArrayReader(pixels, "a.png")
    assert len(ForkingPickler.dumps(reader)) < 1500
    for twin in (pickle.loads(pickle.dumps(reader)), copy.deepcopy(reader)):
        assert (twin.path, twin.level_sizes, twin.exact) == ("a.png", reader.level_sizes, (True,))
        np.testing.assert_array_equal(twin.read(0, (3, 5), (200, 100)), pixels[3:203, 5:105])
    assert reader.array is pixels


# --------------------------------------------------------------------------------------------------------------- caches


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("copy_cache", [True, False])
def test_cached_pyramids_stay_as_stored_while_views_vary(items, workers, copy_cache):
    dataset = CacheDataset(items, pipeline().set_random_state(0), copy_cache=copy_cache, progress=False)
    cached = [item["image"] for item in dataset._cache]
    assert all(isinstance(it, Pyramid) for it in cached)  # the cache ends before the first random transform
    before = [it.thumbnail((5, 7)) for it in cached]
    loader = DataLoader(dataset, batch_size=2, num_workers=workers)
    epochs = [views(loader) for _ in range(3)]
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert [(it.orientation, it.stain) for it in cached] == [(0, None)] * 6
    for item, it, thumbnail in zip(dataset._cache, cached, before):
        assert item["image"] is it
        np.testing.assert_array_equal(it.thumbnail((5, 7)), thumbnail)


def test_views_of_a_cached_pyramid_use_its_pixels_and_thumbnail(items):
    dataset = CacheDataset(items, pipeline().set_random_state(0), progress=False)
    for index in range(len(items)):
        reader = dataset._cache[index]["image"].reader
        assert dataset[index]["pyramid"].reader is dataset[index]["pyramid"].reader is reader


def test_persistent_dataset_needs_weights_only_off(items, tmp_path):
    """torch.load must be told that it may load our classes."""
    dataset = PersistentDataset(items, pipeline(), tmp_path / "cache", track_meta=True, weights_only=False)
    dataset.transform.set_random_state(1)
    first = [dataset[i] for i in range(len(items))]
    assert len(list((tmp_path / "cache").iterdir())) == len(items)
    again = PersistentDataset(items, pipeline(), tmp_path / "cache", track_meta=True, weights_only=False)
    again.transform.set_random_state(1)
    for i, data in enumerate(first):
        twin = again[i]
        it, other = data["pyramid"], twin["pyramid"]
        assert (it.orientation, it.stain) == (other.orientation, other.stain)
        np.testing.assert_array_equal(it.read(every_cell(it)), other.read(every_cell(it)))
        np.testing.assert_array_equal(data["image"].numpy(), twin["image"].numpy())


def test_a_pickled_batch_is_a_batch():
    batch = PyramidBatch([pyramid_of(40, 40), pyramid_of(20, 30)])
    twin = pickle.loads(pickle.dumps(batch))
    assert type(twin) is PyramidBatch
    assert twin.grids == batch.grids
    pictures, cells = requests(batch)
    np.testing.assert_array_equal(twin.read(pictures, cells).numpy(), batch.read(pictures, cells).numpy())
