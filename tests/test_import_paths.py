# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""What can be imported, from where, and when: paths of version 0.1, and the loading of the subpackages."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

import monai_jsma

# Every public name of version 0.1 and the module of monai_jsma that it was imported from.
PUBLIC_NAMES = {
    "checkpoints": """
        BestModelSaver TrainingStateSaver checkpoint_file
    """,
    "data": """
        Area ArrayReader BalancedSampler Box Cohort CuCIMReader FailedRegion Fault FeatureStore GridCell
        Magnification ORIENTATIONS OpenSlideReader PatchError PatchGeometry PredictionDataset Pyramid
        PyramidBatch Reader Region RegionSettings SlideError SlideInfo StainMap SyntheticPicture
        TensorPyramidBatch TiffReader TissueRegion Unread area_resample automatic_magnifications bach_datalist
        check_groups choose_balanced class_mapping class_names collate_readable file_sha256 fold_sides
        folder_datalist gather grid_size group_of hold_out inspect_slide load_datalist make_dataset
        make_digit_picture make_picture open_reader orient oriented_size patch_start place_regions
        read_annotations read_picture save_datalist shuffle_labels sorted_magnifications split_by_group
        stored_cell tile_picture tissue_mask tissue_regions to_mpp verify_datalist whole_slide_items
    """,
    "engines": """
        JSMAEvaluator JSMAPredictor JSMATrainer PrepareBatchJSMA
    """,
    "handlers": """
        AttentionImageHandler AttentionImageSaver picture_name
    """,
    "inferers": """
        JSMAInferer
    """,
    "losses": """
        JSMALoss
    """,
    "metrics": """
        AttentionOnTruth AttentionShare PatchesRead
    """,
    "networks": """
        AttentionMIL AttentionNetwork Backbone ConvBackbone Draw ESTIMATORS FeatureCache GatedAttention
        JSMANet PatchSource UniformAttention Weights all_cells attention_dropout
        baseline_bags build_backbone draw_cells draw_in_order draw_independently
        draw_log_prob draw_systematically encoder_hash inclusion_probabilities is_certain log_prior
        margin_bounds negative_entropy pathwise_weights probability_intervals top_cells
        trusted_digits
    """,
    "pointing": """
        Pointing covered_shares pointing_scores
    """,
    "predictions": """
        PredictionSaver
    """,
    "record_log": """
        RecordLog describe_run
    """,
    "records": """
        PatchRecord PredictionRecord read_records
    """,
    "report": """
        Run Scored Settings evaluate make_units over_repeats read_runs scores write_report
    """,
    "results": """
        PictureResult make_record picture_results
    """,
    "schedulers": """
        NumPatchesScheduler
    """,
    "tables": """
        failure_table prediction_table slide_table
    """,
    "transforms": """
        LoadPyramid LoadPyramidD LoadPyramidDict LoadPyramidd PyramidThumbnail PyramidThumbnailD
        PyramidThumbnailDict PyramidThumbnaild RandPyramidCrop RandPyramidCropD RandPyramidCropDict
        RandPyramidCropd RandPyramidOrientation RandPyramidOrientationD RandPyramidOrientationDict
        RandPyramidOrientationd RandPyramidStain RandPyramidStainD RandPyramidStainDict RandPyramidStaind
    """,
    "uncertainty": """
        mutual_information predictive_entropy
    """,
    "visualize": """
        attention_image by_class draw_areas draw_attention draw_boxes draw_strip drawn_patches
        feature_collection figure_image open_record overview_figure patch_boxes_image patch_strip_image
        record_figure save_figure strip_height
    """,
}
PATHS = [(module, name) for module, names in PUBLIC_NAMES.items() for name in names.split()]


@pytest.mark.parametrize(("module", "name"), PATHS)
def test_an_import_path_of_version_0_1_leads_to_its_name(module, name):
    value = getattr(importlib.import_module(f"monai_jsma.{module}"), name)
    home = sys.modules.get(getattr(value, "__module__", None))
    if home is not None and hasattr(home, name):
        assert getattr(home, name) is value


@pytest.mark.parametrize("module", PUBLIC_NAMES)
def test_a_module_of_version_0_1_is_an_attribute_of_the_package(module):
    assert getattr(monai_jsma, module) is importlib.import_module(f"monai_jsma.{module}")


@pytest.mark.parametrize("name", ["LEARNING_RULES", "PatchNetwork", "check_rule", "draw_by_rule", "read_until_certain"])
def test_a_name_that_samplers_and_encoders_replaced_tells_by_what(name):
    with pytest.raises(ImportError, match=f"'{name}' of version 0.1 was replaced by "):
        getattr(monai_jsma.networks, name)


def test_a_name_that_never_was_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"module 'monai_jsma' has no attribute 'nothing'"):
        monai_jsma.nothing  # noqa: B018
    with pytest.raises(AttributeError, match=r"module 'monai_jsma.data' has no attribute 'nothing'"):
        monai_jsma.data.nothing  # noqa: B018


def python(*arguments: str, folder: Path = ROOT) -> str:
    """The output of a Python program or of ``python -m``, run in a process of its own."""
    command = ["-c", *arguments] if len(arguments) == 1 else [*arguments]
    path = os.pathsep.join([str(ROOT), str(folder)])
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_help_loads_neither_torch_nor_monai():
    program = """
import runpy, sys
sys.argv = ["monai_jsma", "--help"]
try:
    runpy.run_module("monai_jsma", run_name="__main__", alter_sys=True)
except SystemExit as end:
    assert end.code == 0
print(sorted({"torch", "monai", "ignite", "numpy"} & set(sys.modules)))
"""
    assert python(program).splitlines()[-1] == "[]"


def test_without_monai_a_subpackage_is_loaded_on_first_use():
    program = """
import sys
import monai_jsma
assert "networks" in dir(monai_jsma)
assert not any(name in sys.modules for name in ("monai", "torch", "monai_jsma.geometry"))
assert monai_jsma.geometry.to_mpp("100X") == 1.0
assert not any(name in sys.modules for name in ("monai", "torch", "monai_jsma.networks"))
"""
    python(program)


ORDERS = {
    "MONAI first": "import monai; import monai_jsma",
    "MONAI last": "import monai_jsma; import monai",
    "MONAI's bundles last": "import monai_jsma; from monai.bundle import ConfigParser",
    "MONAI last, looked for before": (
        "import importlib.util, monai_jsma; assert importlib.util.find_spec('monai'); import monai"
    ),
    "MONAI through a subpackage": "from monai_jsma.data import Pyramid; import monai",
    "MONAI through an attribute": "import monai_jsma; monai_jsma.networks",
    "MONAI through a moved module": "from monai_jsma.records import read_records; import monai",
}
COMPONENTS = """
from monai.bundle import ConfigParser
parser = ConfigParser({
    "imports": ["$import monai_jsma"],
    "network": {"_target_": "JSMANet", "_mode_": "callable"},
    "loader": {"_target_": "LoadPyramidd", "_mode_": "callable"},
    "report": {"_target_": "write_report", "_mode_": "callable"},
})
for name in ("network", "loader", "report"):
    print(parser.get_parsed_content(name).__module__)
"""


HOMES = ["monai_jsma.networks.jsma", "monai_jsma.transforms.dictionary", "monai_jsma.report.write"]


@pytest.mark.parametrize("order", ORDERS)
def test_short_names_are_found_whichever_package_is_imported_first(order):
    assert python(f"{ORDERS[order]}\n{COMPONENTS}").splitlines()[-3:] == HOMES


@pytest.mark.parametrize("order", ["MONAI first", "MONAI last"])
def test_short_names_are_found_in_a_package_that_is_run_as_a_module(tmp_path, order):
    package = tmp_path / "other_package"
    package.mkdir()
    (package / "__init__.py").write_text(ORDERS[order])
    (package / "__main__.py").write_text(COMPONENTS)
    assert python("-m", "other_package", folder=tmp_path).splitlines()[-3:] == HOMES
