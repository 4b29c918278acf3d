"""Export for timm: the copy equals the trained encoder, or nothing is written."""

import hashlib
import json
import os
import resource
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fastmim.config.classify import Finetune, Head, LabelledData, Probe
from fastmim.config.config_file import load
from fastmim.config.json_form import to_json
from fastmim.data.demo import write_demo_images
from fastmim.data.manifest import Manifest
from fastmim.export import export
from fastmim.export.load import final_weights, from_export, from_run
from fastmim.export.model_card import compose_card
from fastmim.model.encoders import BEiT, ConvNeXt, ResNet, Swin
from fastmim.model.encoders.vit import ViTEncoder
from fastmim.run import checkpoint
from fastmim.tasks import classify
from fastmim.tasks.pretrain import build
from tests.methods.tiny import ENCODERS

FILES = ["README.md", "config.json", "model.safetensors", "usage.py"]
CONFIG = load(Path(__file__).parents[2] / "configs/debug/tiny_cpu.py")
CONFIG = replace(CONFIG, encoder=replace(CONFIG.encoder, depth=2), data=replace(CONFIG.data, size=(16, 24)))


@pytest.fixture
def weights_of_run():
    """Weights of a model in which no two parameters are equal, not even biases and norms."""
    mim = build(CONFIG)
    for parameter in mim.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return mim.state_dict()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_timm_loads_what_was_trained(weights_of_run, tmp_path):
    import timm

    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "deep/encoder")
    assert names(folder.parent) == ["encoder"] and names(folder) == FILES
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert {f"encoder.{k}" for k in model.state_dict()} == {k for k in weights_of_run if k.startswith("encoder.")}
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights_of_run[f"encoder.{name}"]), name


def test_an_old_export_is_replaced(weights_of_run, tmp_path):
    """An earlier export is replaced, in another format too. A link that the user names stays a link."""
    import timm

    folder, link = tmp_path / "encoder", tmp_path / "link"
    link.symlink_to(folder)
    export.export_encoder(CONFIG, weights_of_run, folder, "mmdet")
    weights_of_run["encoder.cls_token"] += 1
    export.export_encoder(CONFIG, weights_of_run, link)
    assert names(tmp_path) == ["encoder", "link"] and link.is_symlink()
    model = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(model.cls_token, weights_of_run["encoder.cls_token"])


@pytest.mark.parametrize("name", FILES)
def test_an_export_that_somebody_edited_is_left_alone(weights_of_run, tmp_path, name):
    """An example is a card with the licence filled in. A missing file is no change."""
    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "encoder")
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content.replace(b"fastmim", b"FastMIM", 1) if b"fastmim" in content else content + b" ")
    before = (folder / name).read_bytes()
    with pytest.raises(ValueError, match=rf"encoder: {name} was changed since it was exported: move it away, or"):
        export.export_encoder(CONFIG, weights_of_run, folder)
    assert (folder / name).read_bytes() == before
    if name != "README.md":
        (folder / name).unlink()
        export.export_encoder(CONFIG, weights_of_run, folder)
    assert names(folder) == FILES


def test_the_current_folder_is_not_replaced(weights_of_run, tmp_path, monkeypatch):
    """A shell inside the folder would lose its current directory."""
    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "encoder")
    monkeypatch.chdir(folder)
    for out in (".", "../encoder"):
        with pytest.raises(ValueError, match="expected another folder than the current one"):
            export.export_encoder(CONFIG, weights_of_run, Path(out))
    assert names(folder) == FILES


def test_everybody_may_read_an_export(weights_of_run, tmp_path):
    before = os.umask(0o027)
    try:
        for to in ("timm", "mmdet"):
            folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / to, to)
            assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o640}
            assert stat.S_IMODE(folder.stat().st_mode) == 0o750
    finally:
        os.umask(before)


@pytest.mark.parametrize("to", ["timm", "mmdet"])
def test_a_full_disk_leaves_the_earlier_export(weights_of_run, tmp_path, to):
    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "encoder", to)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(
            ValueError, match=r"encoder: the export cannot be written there \(File too large\), and not"
        ):
            export.export_encoder(CONFIG, weights_of_run, folder, to)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == ["encoder"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("moment", ["writing", "checking", "the card", "first move", "second move"])
def test_an_interrupted_export_leaves_the_earlier_one(weights_of_run, tmp_path, monkeypatch, moment):
    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "encoder")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def interrupt(*args):
        raise KeyboardInterrupt

    if moment in ("writing", "checking"):
        part = {"writing": "write", "checking": "find_problem"}[moment]
        monkeypatch.setitem(export.FORMATS, "timm", replace(export.FORMATS["timm"], **{part: interrupt}))
    elif moment == "the card":
        monkeypatch.setattr(export, "compose_card", interrupt)
    else:
        rename, name = Path.rename, {"first move": "old", "second move": "encoder"}[moment]
        moves = iter((interrupt,))

        def move(source, target):
            return (next(moves, rename) if target.name == name else rename)(source, target)

        monkeypatch.setattr(Path, "rename", move)
    with pytest.raises(KeyboardInterrupt):
        export.export_encoder(CONFIG, weights_of_run, folder)
    assert names(tmp_path) == ["encoder"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("out", "message"),
    [
        ("file", "expected a folder to write, but .*/file is a file"),
        ("file/encoder", "expected a folder to write, but .*/file is a file"),
        ("loop", "found links that lead to each other"),
        ("loop/encoder", "found links that lead to each other"),
        ("pipe", "expected a folder to write, but .*/pipe is a file"),
        ("x" * 256, r"cannot be written there \(File name too long\)"),
        (".", "expected an earlier export or an empty folder, found 'file' there"),
        ("other", r"expected an earlier export or an empty folder, found '\.hidden\\n' there"),
    ],
)
def test_a_folder_that_cannot_be_written_is_one_line(weights_of_run, tmp_path, out, message):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/.hidden\n").touch()
    before = names(tmp_path)
    with pytest.raises(ValueError, match=message) as error:
        export.export_encoder(CONFIG, weights_of_run, tmp_path / out)
    assert str(error.value).isprintable() and names(tmp_path) == before


def test_a_folder_of_something_else_is_left_alone(weights_of_run, tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(ValueError, match=r"found 'thesis\.tex' there"):
        export.export_encoder(CONFIG, weights_of_run, tmp_path)
    (tmp_path / "thesis.tex").rename(tmp_path / "README.md")
    with pytest.raises(ValueError, match=r"found 'README\.md' there"):
        export.export_encoder(CONFIG, weights_of_run, tmp_path)
    for others in (["config.json", "model.safetensors"], ["backbone.pth", "config.py"], ["usage.py"]):
        for name in others:
            (tmp_path / name).write_text("somebody else's")
        with pytest.raises(ValueError, match="expected an earlier export or an empty folder, found 'README.md' there"):
            export.export_encoder(CONFIG, weights_of_run, tmp_path)
        for name in others:
            (tmp_path / name).unlink()
    assert (tmp_path / "README.md").read_text() == "precious"


@pytest.mark.parametrize("digest", ["", None, [], {}, hashlib.sha256().hexdigest()])
@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to(os.devnull)])
def test_only_regular_files_are_replaced_whatever_a_receipt_says(tmp_path, make, digest):
    make(tmp_path / ".git")
    receipt = {".git": digest, "README.md": hashlib.sha256(b"").hexdigest()}
    (tmp_path / "README.md").write_text(f"<!-- fastmim export, SHA-256 of its files: {json.dumps(receipt)} -->\n")
    with pytest.raises(ValueError, match=r"\.git was changed since it was exported"):
        export.resolve_target(tmp_path)
    (tmp_path / ".git").rename(tmp_path.with_name(f"{tmp_path.name}-kept"))
    assert export.resolve_target(tmp_path) == tmp_path.resolve()


def another_timm(monkeypatch):
    import timm

    def create_model(*args, **kwargs):
        model = timm.models.create_model(*args, **kwargs)
        model.norm.bias.data += 1e-6
        return model

    monkeypatch.setattr(timm, "create_model", create_model)
    return "a copy loaded by timm gives other tokens"


def another_forward(monkeypatch):
    forward = ViTEncoder.forward
    monkeypatch.setattr(ViTEncoder, "forward", lambda *args: forward(*args) * (1 + 1e-3))
    return "training's forward gives other features"


def not_a_number(monkeypatch):
    forward = ViTEncoder.forward
    monkeypatch.setattr(ViTEncoder, "forward", lambda *args: forward(*args) * float("nan"))
    return "training's forward gives other features"


@pytest.mark.parametrize("fault", [another_timm, another_forward, not_a_number])
def test_a_failed_export_leaves_nothing(weights_of_run, tmp_path, monkeypatch, fault):
    """An earlier export stays as it was."""
    export.export_encoder(CONFIG, weights_of_run, tmp_path / "old")
    before = {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()}
    message = fault(monkeypatch)
    weights_of_run["encoder.cls_token"] += 1
    for name in ("old", "new"):
        with pytest.raises(RuntimeError, match=message):
            export.export_encoder(CONFIG, weights_of_run, tmp_path / name)
    assert names(tmp_path) == ["old"]
    assert {path.name: path.read_bytes() for path in (tmp_path / "old").iterdir()} == before


def classifier(config: Finetune | Probe) -> torch.nn.Module:
    """Module of a run of this config, with weights and statistics that are all different."""
    module = classify.build_classifier(config, 5, torch.zeros(3, dtype=torch.int64))
    generator = torch.Generator().manual_seed(0)
    for tensor in module.parameters():
        tensor.data += 0.1 * torch.randn(tensor.shape, generator=generator)
    for name, tensor in module.named_buffers():
        if "running" in name:
            tensor += 0.1 * torch.rand(tensor.shape, generator=generator)
    return module.eval()


DATA = LabelledData(crop=CONFIG.data.crop, size=(64, 64))
VIT = replace(CONFIG.encoder, patch_size=16)
SMALL = {kind: cls(**ENCODERS[kind]) for kind, cls in {"BEiT": BEiT, "ResNet": ResNet, "ConvNeXt": ConvNeXt}.items()}
SMALL |= {"Swin": Swin(window=4, **ENCODERS["Swin"]), "ViT": VIT}


@pytest.mark.parametrize(
    ("kind", "head"),
    [
        ("ViT", Head("mean", "before")),
        ("ViT", Head("mean", "after")),
        ("ViT", Head("mean", "new")),
        ("ViT", Head("cls", "before")),
        ("ViT", Head("cls", "after")),
        ("BEiT", Head("mean", "before")),
        ("BEiT", Head("mean", "new")),
        ("BEiT", Head("cls", "after")),
        ("Swin", Head("mean", "before")),
        ("ResNet", Head("mean", "before")),
        ("ConvNeXt", Head("mean", "before")),
        ("ConvNeXt", Head("mean", "new")),
    ],
)
def test_timm_classifies_as_the_run_does(kind, head, tmp_path):
    import timm

    config = Finetune(encoder=SMALL[kind], data=DATA, head=head)
    module = classifier(config)
    folder = export.export_encoder(config, module.state_dict(), tmp_path / "out")
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        pixels = module.pixels(images).contiguous()
        expected = module.logits(pixels)
        assert torch.equal(copy(pixels), expected)
        pooled = copy.forward_head(copy.forward_features(pixels), pre_logits=True)
        torch.testing.assert_close(pooled, from_export(folder).model(pixels))
        assert torch.equal(from_export(folder).model.logits(pixels), expected)
        # A channels-last image takes other convolutions.
        torch.testing.assert_close(module.predict(images), expected, rtol=1e-4, atol=1e-4)
    text = (folder / "README.md").read_text()
    what = "the class token" if head.pool == "cls" else "the mean over all positions"
    assert copy.num_classes == 5 and f"`model(images)` returns 5 logits, computed from {what}" in text


@pytest.mark.parametrize(("kind", "norm"), [("Swin", "after"), ("ResNet", "new")])
def test_a_head_that_timm_has_not_is_refused(kind, norm, tmp_path):
    config = Finetune(encoder=SMALL[kind], data=DATA, head=Head("mean", norm))
    with pytest.raises(
        ValueError, match=rf"^--to timm: timm's {kind} .*\(head.norm={norm}\); this encoder can go --to"
    ):
        export.export_encoder(config, classifier(config).state_dict(), tmp_path / "out")
    assert not names(tmp_path)


def test_a_probe_s_batch_norm_is_in_the_linear_layer(tmp_path):
    import timm

    config = Probe(encoder=VIT, data=DATA, head=Head("cls", "before"))
    module = classifier(config)
    folder = export.export_encoder(config, module.state_dict(), tmp_path / "out")
    images = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    copy = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    with torch.no_grad():
        assert torch.equal(
            from_run(config, module.state_dict()).model.logits(module.pixels(images)), module.predict(images)
        )
        torch.testing.assert_close(copy(module.pixels(images)), module.predict(images), rtol=1e-4, atol=1e-4)
    assert "batch norm in front of the probe's linear layer" in (folder / "README.md").read_text()


def test_averaged_weights_are_those_that_leave(tmp_path):
    import timm

    config = Finetune(encoder=VIT, data=DATA)
    module = classifier(config)
    averages = {name: p.detach() + 1 for name, p in module.named_parameters() if p.requires_grad}
    state = {"model": module.state_dict(), "ema": averages}
    checkpoint.save(tmp_path / "checkpoints", 1, state, {"config": to_json(config)}, keep=1)
    found = final_weights(checkpoint.load(tmp_path / "checkpoints"))
    folder = export.export_encoder(config, found, tmp_path / "out")
    copy = timm.create_model(f"local-dir:{folder}", pretrained=True)
    assert torch.equal(copy.head.weight, averages["fc.weight"]) and torch.equal(
        copy.pos_embed, found["encoder.pos_embed"]
    )


def test_timm_can_give_it_another_number_of_classes(weights_of_run, tmp_path):
    import timm

    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "out")
    model = timm.create_model(f"local-dir:{folder}", pretrained=True, num_classes=7)
    assert model.head.out_features == 7
    assert torch.equal(model.cls_token, weights_of_run["encoder.cls_token"])


def test_a_folder_for_the_hub(weights_of_run, tmp_path):
    """timm loads the folder, and huggingface_hub reads the header of its card."""
    import timm
    from huggingface_hub import ModelCard  # here, as it takes a third of a second

    folder = export.export_encoder(CONFIG, weights_of_run, tmp_path / "out", "hub-folder")
    assert timm.create_model(f"local-dir:{folder}", pretrained=True).num_features == 64
    loaded = ModelCard.load(folder / "README.md")
    found = loaded.data.to_dict()
    assert found["library_name"] == "timm" and found["pipeline_tag"] == "image-feature-extraction"
    assert "masked-image-modeling" in found["tags"] and "license" not in found
    assert "upload_folder" in loaded.text and "To be filled in by whoever publishes" in loaded.text


TINY = replace(VIT, name="vit_tiny_patch16_224", embed_dim=192, num_heads=3)


@pytest.mark.parametrize(
    ("encoder", "title"),
    [
        (VIT, "# ViT, 0.162 M parameters, pre-trained by masked image modelling (RandomMasking, "),
        (replace(TINY, depth=12), "# vit_tiny_patch16_224 (ViT, 5.52 M parameters), pre-trained"),
        (replace(TINY, depth=11), "# ViT, 5.08 M parameters, pre-trained"),
    ],
)
def test_a_card_is_titled_after_the_network_that_it_is(encoder, title):
    config = replace(CONFIG, encoder=encoder, data=replace(CONFIG.data, size=(224, 224)))
    trained = from_run(config, build(config).state_dict())
    text = compose_card(trained, config, None, 0, "timm", export.TIMM.snippet(trained, "out"), [])
    assert text.startswith(title)
    assert f"* Network: timm's {encoder.name} with img_size=(224, 224), patch_size=16, depth={encoder.depth}, " in text


def test_the_card_says_what_the_run_was(weights_of_run, tmp_path):
    """The card names data, schedule, losses, speed and results, and the last part of paths only."""
    import timm

    run = tmp_path / "run"
    write_demo_images(str(tmp_path / "private/photographs"), 4, (20, 20))
    config = replace(CONFIG, data=replace(CONFIG.data, root=str(tmp_path / "private/photographs")))
    checkpoint.save(run / "checkpoints", 12, {"model": weights_of_run}, {"config": to_json(config)}, keep=1)
    manifest = Manifest.scan(config.data.root)
    manifest.save(str(run / "manifest.json"))
    rows = [{"step": 6, "loss": 0.75, "images_per_s": 32.0, "updates": 6, "peak_bytes": 2**30}]
    rows += [{"step": 12, "loss": 0.5, "images_per_s": 64.0, "updates": 6, "peak_bytes": 2**31}]
    rows += [{"step": 12, "held_out": 0.625, "trivial": {"zero": 1.0}}]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run / "facts.json").write_text(json.dumps({"devices": "2 x CPU, 1 threads each", "decoding": "Pillow"}))
    (run / "knn.json").write_text(json.dumps({"top1": 0.875, "k": 20}))
    folder = export.export_encoder(config, weights_of_run, run / "encoder", run=run, step=12)
    text = (folder / "README.md").read_text()
    for words in (
        f"`photographs`, 4 images, manifest {manifest.hash}",
        "| updates done | 12 |",
        "| devices | `2 x CPU, 1 threads each` |",
        "| images/s | 48.0 (median) |",
        "| time | 0m09s (0.0025 hours) |",
        "| peak memory | 2.00 GiB a process |",
        "| training loss, last logged | 0.5 |",
        "| loss on held-out images | 0.625 |",
        "| loss there, predicting zero | 1 |",
        "| k-NN: top1 | 0.875 |",
        '"global_batch": 32',
        f"timm {timm.__version__}",
        "## Limits",
        "## Licence",
    ):
        assert words in text, words
    assert "private" not in text and text.count(str(tmp_path)) == 1  # in how it is used
    assert (folder / "usage.py").read_text() in text
