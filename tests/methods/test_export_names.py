"""Hostile names in the files of an export are never code, markup or another program's placeholder."""

import json
import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from markdown_it import MarkdownIt

import fastmim
from fastmim import cli
from fastmim.export import export, model_card
from fastmim.export.load import from_run
from fastmim.model.build import build
from fastmim.model.encoders import ResNet, Swin
from tests.methods.test_export import CONFIG
from tests.methods.test_frameworks import TINY_SWIN, TINY_VIT, ViT, config_of
from tests.methods.test_load import run_of

SPOIL = "open('spoilt', 'w').close()"
NAMES = {
    "quotes": f'a\'b"); {SPOIL}; ("',
    "triple quotes": f"'''\"\"\"\n{SPOIL}",
    "line break": f"a\n{SPOIL}\n#",
    "backslash": "back\\slash\\",
    "fence": "a\n```\n<script>alert(1)</script>\n```",
    "backticks": "``a` <b>``",
    "format": "{0} {folder!r} %s %(x)d {{name}}",
    "shell": "$(touch spoilt) `touch spoilt`; & *",
    "front matter": "---\nlicense: mit\n---",
    "markup": "[a](javascript:x) ![](b) <img src=x onerror=y> # c | d \\| e &lt; https:",
    "terminal": "\x1b[31mred\x07\u202e",
    "letters": "ünïcödé 日本",
    "bytes": os.fsdecode(b"\xff\xfe"),
    "long": "a" * 250,
    "hub": "hf-hub:someone",
    "address": "run #1?x=y&z=%20@main",
    "OmegaConf": "${oc.env:HOME} \\${x}",
    "mmengine": "{{$HOME:x}} {{ fileDirname }} {{{{",
}


@pytest.fixture(params=NAMES)
def folder(request, tmp_path, monkeypatch):
    """Makes a folder with a hostile name, relative to the current directory."""
    monkeypatch.chdir(tmp_path)
    path = Path(NAMES[request.param]) / "encoder"
    path.mkdir(parents=True)
    return path


class Recorder:
    """Stand-in for a library that records every call of its parts."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return Recorder(self.calls)

    def __call__(self, *args, **kwargs):
        self.calls.append((*args, *kwargs.values()))
        return Recorder(self.calls)

    def __iter__(self):
        return iter((self, self))


LIBRARIES = ("timm", "huggingface_hub", "fastmim", "onnxruntime", "numpy", "PIL", "detectron2")
LIBRARIES += ("detectron2.config", "detectron2.modeling.backbone")
VIT = ViT(**TINY_VIT)


@pytest.fixture(scope="module")
def trained():
    specs = {"ViT": (VIT, (32, 32)), "Swin": (Swin(**TINY_SWIN), (192, 192))}
    specs |= {"ResNet": (ResNet("resnet18"), (64, 64))}
    configs = {name: config_of(*spec) for name, spec in specs.items()}
    return {name: from_run(config, build(config).state_dict()) for name, config in configs.items()}


def test_generated_python_names_the_folder_and_does_nothing_else(folder, trained, monkeypatch):
    calls = []
    for name in LIBRARIES:
        monkeypatch.setitem(sys.modules, name, Recorder(calls))
    for to, kinds in {"timm": ["ViT"], "hub-folder": ["ViT"], "detectron2": list(trained), "mmdet": ["ViT"]}.items():
        for kind in kinds:
            found = export.FORMATS[to].snippet(trained[kind], str(folder)).code
            variables = {}
            exec(found, variables)  # noqa: S102
            weights = str(folder / "backbone.pth")
            if to == "timm":
                assert (f"local-dir:{folder}", True) in calls
            elif to == "hub-folder":
                assert ("USER/NAME", str(folder)) in calls and ("hf-hub:USER/NAME", True) in calls
            elif to == "mmdet":  # mmengine replaces {{...}} in the text of a config
                assert variables["model"]["backbone"]["init_cfg"]["checkpoint"] == weights and "{{" not in found
            else:
                assert resolved(variables["train"].__dict__["init_checkpoint"]) == weights
    found = export.FORMATS["onnx"].snippet(trained["ViT"], str(folder)).code
    assert f"InferenceSession({str(folder / 'model.onnx')!r})" in found
    compile(found, "usage.py", "exec")
    assert not Path("spoilt").exists()


def resolved(text: str) -> str:
    """Resolves a string as OmegaConf does: an interpolation follows an even number of backslashes."""
    assert all(len(found[1]) % 2 for found in re.finditer(r"(\\*)\$\{", text))
    return re.sub(r"(\\*)\$\{", lambda found: "\\" * (len(found[1]) // 2) + "${", text)


def test_a_run_of_any_name_is_exported_and_loaded(folder, monkeypatch, capsys):
    """The export lies inside the run folder."""
    import timm

    folder.rmdir()
    config = replace(
        CONFIG, run=replace(CONFIG.run, init=str(folder)), data=replace(CONFIG.data, root=str(folder.parent))
    )
    run_of(config, folder.parent)
    if NAMES["bytes"] in folder.parts:  # which can be loaded, but not exported: other libraries cannot open it
        assert fastmim.load(folder.parent)[0].num_features == 64
        with pytest.raises(ValueError, match=r"^\\xff\\xfe/encoder: expected a path in UTF-8"):
            export.export_encoder(CONFIG, {}, folder)
        return
    cli.main(["export", str(folder.parent)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line.isprintable()
    expected, _ = fastmim.load(folder.parent)
    encoder, _ = fastmim.load(folder)
    images = torch.randn(1, 3, 16, 24)
    variables = {}
    exec((folder / "usage.py").read_text(), variables)  # noqa: S102
    with torch.no_grad():
        assert torch.equal(encoder(images), expected(images))
        assert torch.equal(variables["model"].eval()(images), expected(images))
        assert isinstance(variables["model"], type(timm.create_model("vit_tiny_patch16_224", num_classes=0)))
    assert not Path("spoilt").exists() and os.listdir() == [folder.parts[0]]


def tokens_of(text: str):
    for token in MarkdownIt("commonmark", {"html": True}).enable("table").parse(text):
        yield token
        yield from token.children or ()


HEADINGS = ["Use", "Training", "Results", "Recipe", "Limits", "Licence"]


def test_a_card_holds_foreign_text_as_text(tmp_path):
    """Every hostile name stands in every place of a run folder, also in place of other types."""
    for name in NAMES.values():
        run = tmp_path / "run"
        run.mkdir(exist_ok=True)
        facts = {"devices": name, "precision": [name], "ZeRO": {name: name}, "global batch": None, name: name}
        (run / "facts.json").write_text(json.dumps(facts))
        (run / "result.json").write_text(json.dumps({name: name, "top1": 0.5, "y": [name]}))
        (run / "knn.json").write_text(json.dumps([name]))
        rows = [
            {"loss": name},
            {"held_out": name, "trivial": {name: name}},
            [name],
            name,
            {"trivial": name, "held_out": 1},
        ]
        rows += [
            {"images_per_s": name, "updates": 1, "peak_bytes": 1},
            {"images_per_s": 0, "updates": 1, "peak_bytes": 1},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "{broken\n")
        optim = replace(CONFIG.optim, no_decay=(re.escape(name),))
        data = replace(CONFIG.data, root=f"private/{name}", held_out=1, held_out_root=f"private/{name}")
        config = replace(
            CONFIG, data=data, optim=optim, run=replace(CONFIG.run, init=f"private/{name}"),
            train=replace(CONFIG.train, deepspeed=f"private/{name}"),
        )  # fmt: skip
        trained = from_run(config, build(config).state_dict())
        snippet = export.FORMATS["hub-folder"].snippet(trained, name)
        text = model_card.compose_card(trained, config, run, 1, "hub-folder", snippet, [])
        assert text.startswith("---\nlibrary_name: timm\n") and "private" not in text
        header, body = text[4:].split("\n---\n\n", 1)
        assert re.fullmatch(r"([\w-]+:( [\w-]+)?|- [\w-]+)(\n([\w-]+:( [\w-]+)?|- [\w-]+))*", header)
        found = list(tokens_of(body))
        assert not {token.type for token in found} & {"html_block", "html_inline", "link_open", "image", "hr"}
        headings = [
            after.content for token, after in zip(found, found[1:], strict=False) if token.type == "heading_open"
        ]
        assert headings[1:] == HEADINGS and headings[0].startswith("ViT, ")
        fences = [token.content for token in found if token.type == "fence"]
        assert fences[0] == snippet.code and json.loads(fences[1])["optim"]["no_decay"] == [re.escape(name)]
        assert sum(token.type == "tr_open" for token in found) == sum(
            line.startswith("| ") for line in body.splitlines()
        )
        assert all(line.isprintable() for line in text.splitlines())
        assert "damaged, so this card may lack facts: knn.json, metrics.jsonl." in text
        text.encode()


def test_a_code_span_shows_its_text():
    for name in NAMES.values():
        (span,) = [t for t in tokens_of(f"| x |\n|---|\n| {model_card.code(name)} |") if t.type == "code_inline"]
        text = model_card.shown(name).replace("|", "\\x7c")
        assert (
            span.content.strip()
            == (text if len(text) <= model_card.LONGEST else f"{text[:200]}... (250 characters)").strip()
        )
