"""Tests that one line names missing packages, with a command that works for a clone and a wheel."""

import re
import subprocess
import sys

import pytest

from fastmim.host.extras import require
from tests.methods.tiny import ROOT
from tests.train import launched

UPERNET = "segmentation_models_pytorch.decoders.upernet.decoder"


def test_what_is_there_is_no_problem():
    require("this", "json", "xml.dom")


def test_all_missing_packages_are_named_at_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "json", None)
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.decoders", None)
    message = "^this needs json and segmentation-models-pytorch, which are not installed: "
    message += "run `pip install json segmentation-models-pytorch`$"
    with pytest.raises(ValueError, match=message):
        require("this", "json", "segmentation_models_pytorch.decoders")


def test_a_package_that_is_damaged_is_told_from_one_that_is_missing(tmp_path, monkeypatch):
    (tmp_path / "damaged_package.py").write_text("raise AttributeError('no\\nsuch thing')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"damaged_package, which cannot be imported \(no such thing\): run `pip inst"):
        require("this", "damaged_package")


@pytest.mark.parametrize(
    ("config", "arguments", "module", "message"),
    [
        ("tiny_cpu", ["--run.tensorboard", "True"], "tensorboard", "run.tensorboard needs tensorboard"),
        ("tiny_cpu", [], "matplotlib", "the loss curve of a pre-training run needs matplotlib"),
        ("shapes_detect_vit", [], "pycocotools.mask", "detection needs pycocotools"),
        ("shapes_segment_vit", [], UPERNET, "segmentation needs segmentation-models-pytorch"),
    ],
)
def test_a_run_without_a_package_is_refused_before_data_are_looked_for(config, arguments, module, message, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    words = [str(ROOT / f"configs/debug/{config}.py"), "--data.root", "nowhere", "--run.dir", "nowhere/run", *arguments]
    line = launched.refusal(words)
    assert message in line and "which is not installed: run `pip install" in line


def test_no_message_names_an_extra_of_this_package():
    """The package is on no index. `pip install fastmim[detect]` would fail, or install a stranger's package."""
    files = subprocess.run(
        ["git", "ls-files", "*.py", "*.md"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    pattern = re.compile(r"pip install ['\"]?fastmim\b")
    found = [f for f in files if f != "tests/test_extras.py" and pattern.search((ROOT / f).read_text(errors="replace"))]
    assert not found
