# Copyright (c) the monai_jsma contributors.
# SPDX-License-Identifier: Apache-2.0
"""torchvision imports beside any PyTorch, and nothing is declared that it brings itself."""

from __future__ import annotations

import subprocess
import sys

from places import ROOT

MODULE = ROOT / "monai_jsma" / "networks" / "_torchvision.py"
LOAD = f"""
import importlib.util, sys, torch
spec = importlib.util.spec_from_file_location("fallback", {str(MODULE)!r})
fallback = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fallback)
"""


def run(script):
    result = subprocess.run([sys.executable, "-c", LOAD + script], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_timm_can_be_imported():
    """In a fresh interpreter, whatever build of torchvision is installed."""
    assert "resnet18" in run("fallback.ensure_torchvision()\nimport timm\nprint(timm.list_models('resnet18'))")


def test_a_configuration_can_name_models_of_timm():
    """Whoever imports timm, once the networks are loaded."""
    script = """
from monai.bundle import ConfigParser
import monai_jsma.networks
model = ConfigParser({"model": {"_target_": "timm.create_model", "model_name": "test_resnet"}})
print(type(model.get_parsed_content("model")).__name__)
"""
    assert "ResNet" in run(script)


def test_a_bundle_can_import_timm_itself():
    """Its first import is this package; before, MONAI alone was loaded."""
    script = """
from monai.bundle import ConfigParser
assert not {"timm", "monai_jsma"} & set(sys.modules)
parser = ConfigParser({"imports": ["$import monai_jsma", "$import timm"], "names": "$timm.list_models('resnet18')"})
print(parser.get_parsed_content("names"))
"""
    assert "resnet18" in run(script)


def test_only_missing_operators_are_declared(tmp_path):
    """Three torchvisions, one after the other: one imports, one is broken in another way, one lacks its operators."""
    packages = {
        "fine": "",
        "broken": "raise RuntimeError('libcudart is of the wrong version')",
        "lacking": "import torch, torchvision.part\nfrom torch.library import register_fake\n"
        "@register_fake('torchvision::nms')\ndef nms(dets, scores, threshold):\n    return scores\n",
    }
    for name, text in packages.items():
        folder = tmp_path / name / "torchvision"
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(text)
        (folder / "part.py").write_text("")
    run(f"""
def choose(name):
    sys.path.insert(0, {str(tmp_path)!r} + "/" + name)
    for module in [m for m in sys.modules if m.split(".")[0] == "torchvision"]:
        del sys.modules[module]
    importlib.invalidate_caches()

choose("fine")
fallback.ensure_torchvision()
assert not fallback._LIBRARIES and not hasattr(torch.ops.torchvision, "nms")
choose("broken")
try:
    fallback.ensure_torchvision()
except RuntimeError as error:
    assert "wrong version" in str(error)
else:
    raise AssertionError("swallowed")
assert not fallback._LIBRARIES and not hasattr(torch.ops.torchvision, "nms")
choose("lacking")
fallback.ensure_torchvision()
import torchvision.part
assert len(fallback._LIBRARIES) == 1 and hasattr(torch.ops.torchvision, "nms")
fallback.ensure_torchvision()
assert len(fallback._LIBRARIES) == 1
""")
