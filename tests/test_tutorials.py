# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""The tutorials run, cell by cell, as a reader runs them; their trainings are shorter here."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from places import ROOT
from warm_python import warm_python

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.ipynb"))
SHORTER = {  # what is written: what is run here
    "1_pictures_to_report": {"epochs=40 val_interval=10": "epochs=1 val_interval=1", "range(320)": "range(48)"},
    "2_slides_to_maps": {
        "--epochs 15 --val_interval 5": "--epochs 1",
        '"epochs": 16': '"epochs": 1',
        "--train 80 --validation 16 --test 16": "--train 8 --validation 2 --test 2",
        "--train 512": "--train 32",
        '"val_interval": 4': '"val_interval": 1',
    },
    "3_monai_program": {"max_epochs=20": "max_epochs=5", "num_train=512": "num_train=64"},
    "4_reading_a_prediction": {"--epochs 24 --val_interval 8": "--epochs 1", "--train 192": "--train 32"},
}


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_runs(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notebook = nbformat.read(path, as_version=4)
    for written, shorter in SHORTER[path.stem].items():
        cells = [cell for cell in notebook.cells if written in cell.source]
        assert cells, f"{path.name} does not say '{written}'"
        for cell in cells:
            cell.source = cell.source.replace(written, shorter)

    ignored = shutil.ignore_patterns("data", "eval", "features", "models", "predictions", "runs")
    shutil.copytree(ROOT / "bundles", tmp_path / "bundles", ignore=ignored)
    folder = tmp_path / "docs" / "tutorials"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PATH", f"{warm_python().parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    describe_kernel(tmp_path / "jupyter" / "kernels" / "warm")
    client = NotebookClient(notebook, timeout=300, kernel_name="warm", resources={"metadata": {"path": str(folder)}})
    client.execute()


def describe_kernel(folder: Path) -> None:
    """A kernel that has imported everything before."""
    folder.mkdir(parents=True)
    start = [str(warm_python()), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    description = {"argv": start, "display_name": "warm", "language": "python"}
    (folder / "kernel.json").write_text(json.dumps(description))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_tutorial_is_saved_with_what_it_gave(path: Path) -> None:
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        assert cell.execution_count is not None, cell.source
        assert all(output.output_type != "error" for output in cell.outputs), cell.source
        assert str(ROOT.parent) not in str(cell.outputs), cell.source
