# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run as programs, in their smallest setting; times are not looked at."""

from __future__ import annotations

import argparse
import copy
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from places import ROOT
from slide_files import stored_levels
from warm_python import warm_python

from monai_jsma.data import PatchGeometry
from monai_jsma.networks import build_backbone

pytest.importorskip("cucim", reason="the benchmarks compare with cuCIM, which is not installed")

FOLDER = ROOT / "benchmarks"


def run(program: str, *args: str) -> subprocess.CompletedProcess[str]:
    command = [str(warm_python()), str(FOLDER / program), *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules ``common`` and ``slide`` of the benchmarks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import common
    import slide

    yield common, slide
    for name in ("common", "slide"):
        del sys.modules[name]


def test_reading_compares_equal_pixels(tmp_path: Path) -> None:
    output = tmp_path / "reading.json"
    small = ["--size", "2048", "--repeats", "2", "--patches", "2"]
    done = run("reading.py", *small, "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["settings"]["size"] == 2048
    assert report["settings"]["slide"] is None
    assert report["machine"]["cores"] >= 1
    assert report["versions"]["numpy"] == np.__version__
    assert list(map(len, report["results"].values())) == [9, 9, 7]
    for case, rows in report["results"].items():
        for row in rows:
            assert row["reader"] in done.stdout
            assert min(row["patches/s"], row["CPU ms"], row["of bare"]) > 0
            assert row["memory MB"] > 1  # at least the batch and what was decoded
            if "stored" in case or "bare" in row["reader"]:
                assert row["largest difference"] == 0, (case, row)
        assert rows[0]["of bare"] == 1


def test_missing_slide_is_one_clear_line(tmp_path: Path) -> None:
    missing = tmp_path / "none.svs"
    done = run("reading.py", "--slide", str(missing), "--output", str(tmp_path / "reading.json"))
    assert done.returncode == 1
    assert done.stderr == f"reading.py: error: {missing}: there is no such file; correct the path in the datalist.\n"
    assert list(tmp_path.iterdir()) == []


def test_huge_slide_reads_only_the_tiles_it_needs(tmp_path: Path) -> None:
    output = tmp_path / "huge.json"
    done = run("huge_slide.py", "--size", "8192", "--output", str(output))
    assert done.returncode == 0, done.stderr
    geometry = PatchGeometry((8192, 8192), 0.25, (4.0, 1.0, 0.25), 299)
    tiles = {(4.0, row, col) for row, col in product(range(2), repeat=2)}  # of the thumbnail: all of the smallest level
    for cell in np.linspace(0, geometry.num_cells - 1, 5, dtype=int).tolist():
        row, col, *_ = map(int, geometry.level_box(cell))
        spans = (range(start // 256, (start + 298) // 256 + 1) for start in (row, col))
        tiles |= {(geometry.magnifications[geometry.cell(cell).level].mpp, *tile) for tile in product(*spans)}
    results = json.loads(output.read_text())["results"]
    assert {row["reader"]: row["tiles"] for row in results} == dict.fromkeys(
        ("cucim", "tifffile", "openslide"), len(tiles)
    )


def test_slide_of_shared_tiles_has_the_same_pixels(tmp_path: Path, benchmarks: tuple[ModuleType, ModuleType]) -> None:
    _, slide = benchmarks
    pixels = np.random.default_rng(0).integers(0, 256, (1024, 2048, 3), np.uint8)
    for once in (False, True):
        options = {"size": 3000, "mpp": 0.25, "downsamples": (1, 4, 16), "compression": None, "once": once}
        slide.write_slide(str(tmp_path / f"{once}.tif"), pixels, **options)
    each, shared = stored_levels(str(tmp_path / "False.tif")), stored_levels(str(tmp_path / "True.tif"))
    assert np.array_equal(each[0], np.tile(pixels, (3, 2, 1))[:3000, :3000])
    assert [level.shape for level in each] == [(3000, 3000, 3), (750, 750, 3), (187, 187, 3)]
    for one, other in zip(each, shared):
        assert np.array_equal(one, other)
    assert (tmp_path / "True.tif").stat().st_size < 0.4 * (tmp_path / "False.tif").stat().st_size


def test_jobs_take_turns(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    common, _ = benchmarks
    calls: list[tuple[str, int]] = []
    jobs = {name: lambda repeat, name=name: calls.append((name, repeat)) for name in "abc"}
    seconds = common.interleaved(jobs, 20)
    turns = [calls[3 * repeat : 3 * repeat + 3] for repeat in range(20)]
    assert [sorted(turn) for turn in turns] == [[(name, repeat) for name in "abc"] for repeat in range(20)]
    assert {turn[0][0] for turn in turns} == set("abc")
    assert {name: each.shape for name, each in seconds.items()} == dict.fromkeys("abc", (20, 2))


def test_table_is_aligned_markdown(benchmarks: tuple[ModuleType, ModuleType]) -> None:
    common, _ = benchmarks
    text = common.table([{"reader": "a", "MB": 1234.5}, {"reader": "longer", "MB": 0.12345}])
    assert text.splitlines() == [
        "| reader |    MB |",
        "| ------ | ----: |",
        "| a      |  1234 |",
        "| longer | 0.123 |",
    ]


# ------------------------------------------------------------------------------------- a step of training and inference

TINY = [
    "--thumbnail-backbone",
    "test_resnet",
    "--patch-backbone",
    "test_efficientnet",
    "--shrink",
    "8",
    "--repeats",
    "1",
]
CELLS = {"bach": (4, 12, 42), "tcga_prad": (4, 16, 49)}
THUMBNAILS = {"bach": (224, 299), "tcga_prad": (299, 299)}


@pytest.fixture
def workload(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module ``workload`` of the benchmarks."""
    monkeypatch.syspath_prepend(str(FOLDER))
    import workload

    yield workload
    del sys.modules["workload"]


def multiply_adds(workload: ModuleType, name: str, *size: int) -> tuple[int, int]:
    """Of a backbone for one image, and the channels of its map; counted without computing anything."""
    with torch.device("meta"):
        backbone = build_backbone(name, None)
        image = torch.empty(1, 3, *size)
    return workload.multiply_adds(lambda: backbone(image)), backbone.num_features


@pytest.mark.parametrize("bundle", CELLS)
def test_epoch_counts_what_each_network_computes(bundle: str, tmp_path: Path, workload: ModuleType) -> None:
    output = tmp_path / "epoch.json"
    done = run(
        "epoch.py",
        "--bundle",
        bundle,
        *TINY,
        "--batch-size",
        "2",
        "--training-batch-size",
        "2",
        "--output",
        str(output),
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    h, width = multiply_adds(workload, "test_resnet", *(side // 8 for side in THUMBNAILS[bundle]))
    f, channels = multiply_adds(workload, "test_efficientnet", 37, 37)
    head = channels * {"bach": 4, "tcga_prad": 3}[bundle]
    cells = CELLS[bundle]
    area = math.prod(-(-(side // 8) // 32) for side in THUMBNAILS[bundle])  # h's map: one logit a place and level
    levels = dict.fromkeys(cells, 1) | {sum(cells): len(cells)}
    work = {k: [h + levels[n] * area * width + min(k, n) * f + head for n in levels] for k in (5, 99)}
    *singles, combined, ours = report["times"]
    for i, row in enumerate((*singles, ours)):
        assert row["5 (GMAC)"] * 1e9 == pytest.approx(work[5][i], abs=1)
        assert row["all (GMAC)"] * 1e9 == pytest.approx(work[99][i], abs=1)
    assert combined["all (GMAC)"] * 1e9 == pytest.approx(sum(work[99][:3]), abs=1)
    limits = [sum(work[5][:3]), sum(work[99][:3]), work[99][3], sum(work[99][:3]), work[99][3]]
    assert [row["limit"] for row in report["ratios"]] == pytest.approx([limit / work[5][3] for limit in limits])
    for row in report["ratios"]:
        assert row["share of limit"] == pytest.approx(row["measured"] / row["limit"])
    # The paper's own words in Section 4.3.3, but for the last: "10 times" and "12.4 times" faster.
    published = {"bach": [2.53, 8.93, None, 6.20, 10.33], "tcga_prad": [2.55, 9.83, None, 7.33, 12.41]}[bundle]
    assert [row["paper"] and round(row["paper"], 2) for row in report["ratios"]] == published


def test_limits_of_the_papers_networks(workload: ModuleType) -> None:
    f, _ = multiply_adds(workload, "inception_v3", 299, 299)
    for bundle, joint, single, five, light in (
        ("bach", 10.29, 10.54, 2.825, 11.57),
        ("tcga_prad", 11.67, 12.00, 2.833, 13.75),
    ):
        cells, size = CELLS[bundle], THUMBNAILS[bundle]
        h, _ = multiply_adds(workload, "inception_v3", *size)
        ours = h + 5 * f
        assert (h + sum(cells) * f) / ours == pytest.approx(joint, abs=0.005)
        assert (3 * h + sum(cells) * f) / ours == pytest.approx(single, abs=0.005)
        assert (3 * h + 14 * f) / ours == pytest.approx(five, abs=0.001)
        h, _ = multiply_adds(workload, "mobilenetv3_small_100", *size)
        assert (h + sum(cells) * f) / (h + 5 * f) == pytest.approx(light, abs=0.005)


def test_cropped_patches_give_the_same_logits(workload: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    workload.add_arguments(parser)
    work = workload.Workload(parser.parse_args([*TINY, "--device", "cpu", "--batch-size", "2"]))
    network = work.network(work.magnifications)
    pyramids = work.patches(work.magnifications, 2)
    cropped = workload.Cropped(pyramids, work.device)
    for k in (5, "all"):
        logits = work.infer(network, k, pyramids)
        assert logits[0].sub(logits[1]).abs().min() > 0  # two pictures
        assert torch.equal(work.infer(network, k, cropped), logits)


def test_gradients_of_several_passes_are_those_of_one(workload: ModuleType) -> None:
    parser = argparse.ArgumentParser()
    workload.add_arguments(parser)
    work = workload.Workload(parser.parse_args([*TINY, "--device", "cpu", "--batch-size", "3"]))
    network = work.network(work.magnifications)
    network.classifier.dropout.p = 0.0  # without dropout and batch statistics all passes are equal
    network.freeze_norm = True
    patches, weights = work.patches(work.magnifications, 3), copy.deepcopy(network.state_dict())
    gradients = {}
    for pass_patches in (3 * 58, 2 * 58, 1):
        network.load_state_dict(weights)
        work.args.pass_patches = pass_patches
        work.train(network, "all", patches)
        gradients[pass_patches] = torch.cat([p.grad.flatten() for p in network.parameters()])
    assert gradients[1].abs().max() > 1e-3
    for some in (2 * 58, 1):
        torch.testing.assert_close(gradients[some], gradients[3 * 58], rtol=1e-4, atol=1e-6)


def test_sampling_parts_a_step(tmp_path: Path) -> None:
    output = tmp_path / "sampling.json"
    done = run("sampling.py", *TINY, "--output", str(output))
    assert done.returncode == 0, done.stderr
    results = json.loads(output.read_text())["results"]
    for phase in ("training", "inference"):
        rows = {row[phase]: row for row in results[phase]}
        assert list(rows) == ["step", "all but the backbones", "attention", "drawing", "cropping"]
        assert rows["step"]["share of the step"] == 1
        assert all(row["ms"] > 0 and phase in done.stdout for row in rows.values())


def test_cached_training_counts_its_passes(tmp_path: Path) -> None:
    output = tmp_path / "cached.json"
    small = ["--shrink", "8", "--repeats", "1", "--epochs", "3", "--pictures", "2"]
    done = run("cached.py", *small, *TINY[:4], "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    rows = {row["training"]: row for row in report["results"]}
    cells, record = sum(CELLS["bach"]), 24 + 4 + 4 * build_backbone("test_efficientnet", None).num_features
    assert report["settings"]["cells"] == cells
    for name, few, megabytes in (("ours", 5, 2 * 5 * record / 1e6), ("attention MIL", cells, 2 * cells * record / 1e6)):
        plain, first, later = (rows[f"{name}, {kept}"] for kept in ("features not kept", "cache empty", "cache full"))
        assert [row["passes through f"] for row in (plain, first, later)] == [few, few, 0]
        assert (plain["cache MB"], first["cache MB"]) == (None, pytest.approx(megabytes))
    all_epochs = [rows[f"{name}, cache empty, 3 epochs"]["passes through f"] for name in ("ours", "attention MIL")]
    assert 5 < all_epochs[0] <= 15
    assert all_epochs[1] == cells
    assert rows["ours, features not kept"]["of the first"] == 1
    assert all(row["CPU ms"] > 0 and name in done.stdout for name, row in rows.items())


def test_unknown_backbone_is_one_clear_line(tmp_path: Path) -> None:
    for program in ("epoch.py", "sampling.py", "cached.py"):
        done = run(program, "--patch-backbone", "resnet51", "--output", str(tmp_path / "none.json"))
        assert done.returncode == 1
        assert done.stderr.startswith(f"{program}: error: unknown backbone 'resnet51'")
        assert len(done.stderr.splitlines()) == 1


def test_seconds_of_epochs_are_those_of_the_first_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    import processes

    line = "2026-01-01 00:00:00,000 - INFO - Epoch[{}] Complete. Time taken: {}\n"
    validated = line.format(1, "00:00:07.000")
    log = "".join(line.format(*each) for each in ((1, "00:00:02.500"), (2, "01:01:01.250"))) + validated + "Epoch[3]"
    assert processes.find_epochs(log) == {1: 2.5, 2: 3661.25}


def test_slides_count_what_each_way_reads(tmp_path: Path) -> None:
    output = tmp_path / "slides.json"
    small = ["--sizes", "2048", "--region-size", "512", "--repeats", "1"]
    backbones = ["--backbone", "test_resnet", "--thumbnail-backbone", "test_resnet"]
    done = run("slides.py", *small, *backbones, "--output", str(output))
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    usual, few, more, confident = report["results"]
    num_tissue = round(0.3 * 8 * 8)  # a patch of the usual pipeline is a region of the synthetic slide
    assert (usual["patches"], usual["regions"], usual["of usual"]) == (num_tissue, 0, 1)
    assert usual["tiles"] == num_tissue + 1  # and the coarser level, in which the tissue was found
    assert 1 <= few["patches"] <= 16
    assert few["patches"] <= more["patches"] <= 64
    for row in (few, more, confident):
        assert 1 <= row["regions"] <= min(16, row["patches"])
        assert row["tiles"] > 1
    assert 0 <= confident["confidence"] <= 1
    assert [row["confidence"] for row in (usual, few, more)] == [None] * 3
    per_patch = report["work"][0]["vit_large_patch16_224 GMAC"] / num_tissue
    assert per_patch == pytest.approx(61.6, abs=0.5)
