"""`fastmim.load`: encoder and transform of a run, an export, an official checkpoint, and where people use them."""

import copy
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

import fastmim
from fastmim import checkpoint
from fastmim.config import load as load_config
from fastmim.config import to_json
from fastmim.convert import official
from fastmim.data.crops import CenterCrop
from fastmim.data.manifest import Manifest
from fastmim.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.tasks import export
from fastmim.tasks.classify import whole_images
from fastmim.tasks.load import find, from_run
from fastmim.tasks.parts import build
from fastmim.transfer import Finetune, Head, LabelledData
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
    """A run folder with a checkpoint of a module of this config."""
    module = module or randomized(build(config))
    checkpoint.save(folder / "checkpoints", 1, {"model": module.state_dict()}, {"config": to_json(config)}, keep=1)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run folder of each kind of encoder."""
    folder = tmp_path_factory.mktemp("runs")
    return {name: run_of(config_of(*SIZES[name]), folder / name) for name in SIZES}


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Noise, of two classes: wide, turned by EXIF, grey, and with transparency."""
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
    """Shapes, the last stage beside `dense`, and timm's `forward_features` bit for bit."""
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
        trained = find(runs[name])
        if trained.timm is not None:
            args = {"in_chans": 3, "num_classes": 0} | trained.timm["model_args"]
            model = timm.create_model(trained.timm["architecture"], **args).eval()
            own = trained.names()
            model.load_state_dict({own[n]: t for n, t in encoder.state_dict().items() if n in own})
            assert torch.equal(trained.spec.timm_tokens(model, images), tokens)


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
    """Pooled features are what its linear layer is given."""
    config = Finetune(ViT(**TINY_VIT), LabelledData(crop=CenterCrop(), size=(32, 32)), Head("cls", "after"))
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
    """Sizes come from its shapes; heads of published widths cannot, so the model is as wide as one of those."""
    config = load_config(ROOT / f"configs/{row}.py")
    small = {"depth": 1, "embed_dim": 192, "num_heads": 3} if "vit" in row else {"depths": (1, 1, 1, 1)}
    decoder = replace(config.decoder, depth=1) if "vit" in row else config.decoder
    name = {"name": "vit_tiny_patch16_224"} if "vit" in row else {"embed_dim": 16, "num_heads": (1, 2, 2, 4)}
    config = replace(config, encoder=replace(config.encoder, **small | name), decoder=decoder)
    mim = randomized(build(config)).eval()
    fmt = official.choose(mim, None)
    official.write_official(tmp_path / "official.pth", fmt.container, official.to_official(fmt, mim)[0])
    encoder, _ = fastmim.load(tmp_path / "official.pth")
    images = torch.randn(1, 3, *config.data.size)
    with torch.no_grad():
        assert torch.equal(encoder.tokens(images), mim.encoder.features(images))


def test_the_transform_sees_what_evaluation_sees(runs, photographs):
    """Bit for bit: the loader's images of these files, normalised."""
    config = config_of(*SIZES["ViT"])
    encoder, transform = fastmim.load(runs["ViT"])
    data = LabelledData(crop=config.data.crop, size=config.data.size, mean=MEAN, loader="pillow", workers=1)
    manifest = Manifest.scan(str(photographs))
    with whole_images(manifest, data, torch.device("cpu")) as loader:
        ((images, index),) = loader.batches([torch.arange(len(manifest))])
    for pixels, i in zip(find(runs["ViT"]).normalize(images), index.tolist(), strict=True):
        with Image.open(manifest.path(i)) as image:
            assert torch.equal(transform(image), pixels), manifest.path(i)


def test_in_a_pipeline_of_torchvision(runs, photographs):
    """With worker processes, and pooled features as timm's models give them."""
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
    """Under autocast features are those of float32 but for the rounding of bfloat16."""
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
    """No breaks; the eager backend, as what a compiler makes of a graph is its own affair."""
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
