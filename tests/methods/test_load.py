"""`fastmim.load`: encoder and transform of a run, an export or an official checkpoint, and their uses."""

import copy
import json
import os
import pickle
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader

import fastmim
from fastmim.config.classify import Finetune, Head, LabelledData
from fastmim.config.config_file import load as load_config
from fastmim.config.json_form import to_json
from fastmim.convert import official_weights
from fastmim.data.crops import CenterCrop
from fastmim.data.manifest import Manifest
from fastmim.export import export
from fastmim.export.load import from_run, load_trained
from fastmim.export.timm_models import tensor_names, timm_model, timm_tokens
from fastmim.model.build import build
from fastmim.model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.run import checkpoint
from fastmim.tasks.labelled_images import open_central_crops
from tests.methods.test_export import classifier
from tests.methods.test_frameworks import MEAN, TINY_SWIN, TINY_VIT, config_of, randomized
from tests.methods.test_onnx_export import UM_SWIN
from tests.methods.tiny import ENCODERS, ROOT

SIZES = {
    "ViT": (ViT(**TINY_VIT), (32, 48)),
    "BEiT": (BEiT(**TINY_VIT), (64, 64)),
    "Swin": (Swin(**TINY_SWIN), (96, 96)),
    "ResNet": (ResNet(**ENCODERS["ResNet"]), (64, 96)),
    "ConvNeXt": (ConvNeXt(**ENCODERS["ConvNeXt"]), (64, 64)),
    "dilated ResNet": (ResNet(**ENCODERS["ResNet"], output_stride=8), (64, 96)),
    "ConvMAE": (ConvMAE(**ENCODERS["ConvMAE"]), (32, 48)),
    "UMSwin": (UMSwin(**UM_SWIN), (64, 64)),
    "UMPVT": (UMPVT(**ENCODERS["UMPVT"], reductions=(2, 2, 1, 1)), (64, 64)),
}


def run_of(config, folder, module=None):
    """Writes a run folder with a checkpoint of a module of this config."""
    module = module or randomized(build(config))
    checkpoint.save(folder / "checkpoints", 1, {"model": module.state_dict()}, {"config": to_json(config)}, keep=1)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Run folders, one for each kind of encoder."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: run_of(config_of(*SIZES[name]), folder / name) for name in SIZES}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Noise images of two classes: wide, turned by EXIF, grey, and with transparency."""
    folder, generator = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir()
    turned = Image.Exif()
    turned[0x0112] = 6
    shapes = {
        "a/wide.png": (60, 110, 3),
        "a/turned.jpg": (90, 70, 3),
        "b/grey.png": (80, 80),
        "b/clear.png": (70, 99, 4),
    }
    for name, shape in shapes.items():
        image = Image.fromarray(generator.integers(0, 256, shape, dtype=np.uint8))
        image.save(folder / name, **({"exif": turned} if "turned" in name else {}))
    return folder


def images_of(name: str) -> torch.Tensor:
    return torch.randn((2, 3, *SIZES[name][1]), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", SIZES)
def test_features_of_every_kind(name, runs):
    """Checks shapes, the last stage against `dense`, and tokens against timm's, bit for bit."""
    import timm

    encoder, _ = fastmim.load(runs[name])
    images, (height, width) = images_of(name), SIZES[name][1]
    with torch.no_grad():
        tokens, dense, maps = encoder.tokens(images), encoder.dense(images), encoder.stages(images)
        assert torch.equal(encoder(images), encoder.pooled(images))
        assert encoder(images).shape == (2, encoder.num_features)
        cells = (height // encoder.stride, width // encoder.stride)
        assert dense.shape == (2, encoder.num_features, *cells)
        assert torch.equal(dense.flatten(2).transpose(1, 2), tokens[:, encoder.encoder.num_prefix_tokens :])
        torch.testing.assert_close(dense.mean((2, 3)), encoder(images))
        for x, stride, channels in zip(maps, encoder.strides, encoder.widths, strict=True):
            assert x.shape == (2, channels, height // stride, width // stride)
        with pytest.raises(ValueError, match="pre-trained only, so it has no classifier"):
            encoder.logits(images)
        trained = load_trained(runs[name])
        if timm_model(trained) is not None:
            args = {"in_chans": 3, "num_classes": 0} | timm_model(trained)["model_args"]
            model = timm.create_model(timm_model(trained)["architecture"], **args).eval()
            own = tensor_names(trained)
            model.load_state_dict({own[n]: t for n, t in encoder.state_dict().items() if n in own})
            assert torch.equal(timm_tokens(trained.spec, model, images), tokens)


@pytest.mark.parametrize("name", SIZES)
def test_pooled_features_are_the_same_in_every_library(name, runs, tmp_path):
    """Without a classifier, timm and `fastmim.load` of run and export return the mean over positions."""
    import timm

    config, images = config_of(*SIZES[name]), images_of(name)
    folder = export.export_encoder(config, checkpoint.load(runs[name] / "checkpoints").state["model"], tmp_path / "out")
    expected, _ = fastmim.load(runs[name])
    with torch.no_grad():
        raster = expected.tokens(images)[:, expected.encoder.num_prefix_tokens :].mean(1)
        assert torch.equal(expected(images), raster) and torch.equal(fastmim.load(folder)[0](images), raster)
        if timm_model(load_trained(runs[name])) is not None:
            model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
            torch.testing.assert_close(model(images), raster)
    words = "(images)` returns pooled features: the mean over all positions"
    assert words in (folder / "README.md").read_text() and words.replace("`", "") in (folder / "usage.py").read_text()


@pytest.mark.parametrize("name", ["ViT", "Swin", "ConvMAE"])
def test_an_export_gives_what_the_run_gives(name, runs, tmp_path):
    config, images = config_of(*SIZES[name]), images_of(name)
    loaded = checkpoint.load(runs[name] / "checkpoints")
    expected, window = fastmim.load(runs[name])
    for to in ("timm", "hub-folder"):
        folder = export.export_encoder(config, loaded.state["model"], tmp_path / to, to)
        encoder, transform = fastmim.load(folder)
        assert not encoder.training and repr(transform) == repr(window)
        with torch.no_grad():
            assert torch.equal(encoder(images), expected(images))


def test_a_classifier(tmp_path):
    """Pooled features are the input of the linear layer."""
    config = Finetune(
        encoder=ViT(**TINY_VIT), data=LabelledData(crop=CenterCrop(), size=(32, 32)), head=Head("cls", "after")
    )
    module = classifier(config)
    encoder, _ = fastmim.load(run_of(config, tmp_path, module))
    images = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.no_grad():
        pixels = module.pixels(images)
        assert encoder.num_classes == 5 and torch.equal(encoder.logits(pixels), module.predict(images))
        assert torch.equal(encoder(pixels), module.features(pixels))


@pytest.mark.parametrize(
    "row", ["mae/pretrain/vit_base_patch16_224_800ep", "simmim/pretrain/swin_base_window6_192_800ep"]
)
def test_an_official_checkpoint(row, tmp_path):
    """Sizes come from shapes. The model has a published width, because shapes do not determine heads."""
    config = load_config(ROOT / f"configs/{row}.py")
    small = {"depth": 1, "embed_dim": 192, "num_heads": 3} if "vit" in row else {"depths": (1, 1, 1, 1)}
    decoder = replace(config.decoder, depth=1) if "vit" in row else config.decoder
    name = {"name": "vit_tiny_patch16_224"} if "vit" in row else {"embed_dim": 16, "num_heads": (1, 2, 2, 4)}
    config = replace(config, encoder=replace(config.encoder, **small | name), decoder=decoder)
    mim = randomized(build(config)).eval()
    fmt = official_weights.choose_format(mim, None)
    official_weights.write_official(tmp_path / "official.pth", fmt.container, official_weights.to_official(fmt, mim)[0])
    encoder, _ = fastmim.load(tmp_path / "official.pth")
    images = torch.randn(1, 3, *config.data.size)
    with torch.no_grad():
        assert torch.equal(encoder.tokens(images), mim.encoder.features(images))


def test_the_transform_sees_what_evaluation_sees(runs, photographs):
    """The transform equals the loader's normalised images bit for bit."""
    config = config_of(*SIZES["ViT"])
    encoder, transform = fastmim.load(runs["ViT"])
    data = LabelledData(crop=config.data.crop, size=config.data.size, mean=MEAN, loader="pillow", workers=1)
    manifest = Manifest.scan(str(photographs))
    with open_central_crops(manifest, data, torch.device("cpu")) as loader:
        ((images, index),) = loader.batches([torch.arange(len(manifest))])
    for pixels, i in zip(load_trained(runs["ViT"]).normalize(images), index.tolist(), strict=True):
        with Image.open(manifest.path(i)) as image:
            assert torch.equal(transform(image), pixels), manifest.path(i)


def test_in_a_pipeline_of_torchvision(runs, photographs):
    """The transform runs in worker processes, and pooled features have the shape of timm's."""
    from torchvision.datasets import ImageFolder

    encoder, transform = fastmim.load(runs["ViT"])
    loader = DataLoader(ImageFolder(str(photographs), transform), batch_size=3, num_workers=1)
    with torch.no_grad():
        features = torch.cat([encoder(images) for images, _ in loader])
    assert features.shape == (4, 16) and features.isfinite().all()


@pytest.mark.parametrize("name", SIZES)
def test_gradients_reach_everything(name, runs):
    encoder, _ = fastmim.load(runs[name])
    encoder.train()
    encoder(images_of(name)).square().sum().backward()
    without = {n for n, p in encoder.named_parameters() if p.requires_grad and p.grad is None}
    assert {n.rpartition(".")[2] for n in without} <= {"mask_token", "mask_gamma", "vis_mask_token"}


@pytest.mark.parametrize("name", SIZES)
def test_half_precision(name, runs):
    """Under autocast, features equal those of float32 except for the rounding of bfloat16."""
    encoder, _ = fastmim.load(runs[name])
    images = images_of(name)
    with torch.no_grad():
        expected = encoder(images)
        with torch.autocast("cpu", torch.bfloat16):
            found = encoder(images)
    assert nn.functional.cosine_similarity(found.float(), expected).min() > 0.99


@pytest.mark.costly("compile", "torch.compile traces a small encoder, Swin twice")
@pytest.mark.parametrize(
    "name", ["ViT", "Swin", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ResNet", "UMSwin"))]
)
def test_compile_takes_the_whole_graph(name, runs):
    """The graph has no breaks. The eager backend suffices, because the compiler's output is not the subject."""
    encoder, _ = fastmim.load(runs[name])
    images = images_of(name)
    for training in (False, True) if name == "Swin" else (False,):  # which has another way for each
        eager = copy.deepcopy(encoder).train(training)
        compiled = torch.compile(copy.deepcopy(eager), fullgraph=True, backend="eager")
        torch.testing.assert_close(compiled(images), eager(images))
        torch._dynamo.reset()


def test_importing_fastmim_imports_nothing():
    code = "import sys, fastmim; sys.exit('torch' in sys.modules or not callable(fastmim.load))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_is_none_of_these_is_refused(tmp_path, runs):
    segmented = load_config(ROOT / "configs/debug/shapes_segment_vit.py")
    with pytest.raises(ValueError, match=r"got a Segment run, which trains no final norm: .*run\.init"):
        from_run(segmented, {})
    with pytest.raises(ValueError, match="expected a run folder, a folder written by `fastmim export`"):
        fastmim.load(tmp_path)
    (tmp_path / "model.safetensors").touch()
    (tmp_path / "config.json").write_text('{"architecture": "resnet50"}')
    with pytest.raises(ValueError, match="export it again, or load it with timm"):
        fastmim.load(tmp_path)
    (tmp_path / "notes.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"expected a checkpoint of torch\.save"):
        fastmim.load(tmp_path / "notes.pth")


@pytest.fixture
def exported(runs, tmp_path):
    """Export of a ViT, and the content of its config.json."""
    state = checkpoint.load(runs["ViT"] / "checkpoints").state["model"]
    folder = export.export_encoder(config_of(*SIZES["ViT"]), state, tmp_path / "encoder")
    return folder, json.loads((folder / "config.json").read_text())


def refusal(folder):
    with pytest.raises(ValueError, match="model.safetensors|config.json") as error:
        fastmim.load(folder)
    text = str(error.value)
    assert text.isprintable() and len(text) < 900 and "0x" not in text
    return text


HOSTILE = [
    ("spec.depth", 10**7, "encoder.depth: expected at most 54 blocks in 54 tensors with values"),
    ("spec.depth", 3, "encoder.blocks.3.attn.proj.bias has no place in ViT"),
    ("spec.depth", 5, "encoder.blocks.4.norm1.weight is missing"),
    ("spec.embed_dim", 10**6, "expected (1, 1, 1000000) of float32, got (1, 1, 16) of float32"),
    ("spec.embed_dim", 10**12, "expected sizes that fit each other"),
    ("spec.embed_dim", "16", "encoder.embed_dim: expected int | None, got '16'"),
    ("spec.num_heads", 7, "encoder.embed_dim=16 must be a multiple of encoder.num_heads=7"),
    ("spec.name", "../../evil\n\x1b[31m", "timm has no model"),
    ("spec.name", "x" * 4000, "timm has no model"),
    ("spec.part", "RandomMasking", "RandomMasking has no field"),
    ("spec", None, "spec: expected Encoder, got None"),
    ("spec", [[1]] * 1000, "spec: expected Encoder"),
    ("masking", {"part": "Head"}, "masking: expected Masking"),
    ("masking", {"part": "os.system"}, "config part 'os.system' is unknown"),
    ("size", [10**6, 10**6], "size: expected at least 1 and at most 4096"),
    ("size", [32], "size: expected tuple[int, int], got (32,)"),
    ("size", [4096, 4096], "pos_embed: expected"),
    ("test_size", [10**9, 1], "test_size: expected at least 1 and at most 4096"),
    ("mean", [0.5] * 1000, "mean and std: expected a number for each of 1 or 3 channels, got 1000 and 3"),
    ("mean", [float("nan")] * 3, "expected JSON, found NaN, which is no number"),
    ("std", [0, 1, 1], "std: expected above 0"),
    ("crop", {"part": "CenterCrop", "interpolation": "a()"}, "crop.interpolation: expected one of bicubic, bilinear"),
    ("classes", 10**9, "head and classes: expected both or neither"),
    ("classes", True, "classes: expected int, got True"),
    ("more", 1, "exported by this version of fastmim"),
]


@pytest.mark.parametrize(("field", "value", "message"), HOSTILE)
def test_a_strange_config_of_an_export_is_one_line(exported, field, value, message):
    """The refusal comes at once, whatever sizes the file claims, because weights bound them."""
    folder, stored = exported
    place = stored["fastmim"]
    *outer, last = field.split(".")
    for name in outer:
        place = place[name]
    place[last] = value
    (folder / "config.json").write_text(json.dumps(stored))
    assert message in refusal(folder)


NO_CONFIG = [b"", b"{", b"[" * 10**5, b"\xff\xfe", b"[]", b"null", b'{"fastmim": 1}', b" " * 2**21]


@pytest.mark.parametrize("content", NO_CONFIG)
def test_what_is_no_config_is_one_line(exported, content):
    (exported[0] / "config.json").write_bytes(content)
    assert "config.json: expected" in refusal(exported[0])


def test_other_weights_in_an_export_are_one_line(exported):
    folder, _ = exported
    tensors = load_file(folder / "model.safetensors")
    whole, wide = torch.zeros(1, 1, 16, dtype=torch.int64), torch.zeros(1, 1, 17)
    for token, message in ((whole, "got (1, 1, 16) of int64"), (wide, "got (1, 1, 17) of float32")):
        save_file(tensors | {"cls_token": token}, folder / "model.safetensors")
        assert f"encoder.cls_token: expected (1, 1, 16) of float32, {message}" in refusal(folder)
    save_file(tensors | {"new\n": wide}, folder / "model.safetensors")
    assert "encoder.new\\n has no place in ViT" in refusal(folder)
    del tensors["norm.bias"]
    save_file(tensors, folder / "model.safetensors")
    assert "norm.bias is missing" in refusal(folder)
    (folder / "model.safetensors").write_bytes((10**9).to_bytes(8, "little") + b"{" * 100)
    assert "expected a safetensors file" in refusal(folder)
    for name in ("config.json", "model.safetensors"):
        (folder / name).unlink()
        os.mkfifo(folder / name)
    with pytest.raises(ValueError, match="expected a run folder"):
        fastmim.load(folder)


@pytest.mark.parametrize(("shape", "most"), [((0,), 54), ((1,), 1000)])
def test_tensors_that_cost_nothing_allow_no_deep_encoder(exported, shape, most):
    folder, stored = exported
    tensors = load_file(folder / "model.safetensors")
    more = {f"w{i}": torch.zeros(shape, dtype=torch.uint8) for i in range(4000)}
    save_file(tensors | more, folder / "model.safetensors")
    stored["fastmim"]["spec"]["depth"] = 3500
    (folder / "config.json").write_text(json.dumps(stored))
    assert f"encoder.depth: expected at most {most} blocks" in refusal(folder)


def test_loading_an_export_runs_nothing_in_it(exported, monkeypatch):
    """Python files, a pickle in place of the weights, and metadata that names code never run."""
    folder, _ = exported
    code = f"open({str(folder / 'spoilt')!r}, 'w')"
    for name in ("usage", "config", "__init__", "conftest", "sitecustomize", "timm", "json", "model"):
        (folder / f"{name}.py").write_text(code)
    tensors = load_file(folder / "model.safetensors")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt", "__reduce__": code, "auto_map": code})
    (folder / "pytorch_model.bin").write_bytes(pickled(code))
    monkeypatch.chdir(folder)
    encoder, _ = fastmim.load(".")
    assert encoder.num_features == 16
    (folder / "model.safetensors").write_bytes(pickled(code))
    assert "expected a safetensors file" in refusal(folder)
    assert not (folder / "spoilt").exists()


def pickled(code: str) -> bytes:
    class Evil:
        def __reduce__(self):
            return exec, (code,)

    return pickle.dumps(Evil())
