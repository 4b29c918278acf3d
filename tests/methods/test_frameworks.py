"""Exports for MMDetection, MMSegmentation and Detectron2 hold every name of the library, in its shapes and layouts.

The libraries are no dependencies, so names and shapes are compared with lists written from their code. Their own
modules were tried once, by hand: SwinTransformer and ResNet of mmdet 3.3.0 and mmseg 1.2.2, VisionTransformer, BEiTViT
and ConvNeXt of mmpretrain 1.2.0, and ViT, SwinTransformer and ResNet of detectron2's main branch, without compiled ops.
Each was built from the config of the export and loaded by the library's own loader. Names and shapes were those below.
Features differed by at most 3.2e-6 (values around 1).
"""

import ast
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fastmim.config.base import Config, Data
from fastmim.config.classify import Finetune, Head, LabelledData
from fastmim.config.config_file import load
from fastmim.convert import detectron2, openmmlab
from fastmim.convert.backbone import INDEX, encoder_tensors
from fastmim.convert.restricted_reader import read_official
from fastmim.data.crops import CenterCrop
from fastmim.export import export
from fastmim.model.build import build
from fastmim.model.encoders import PRETRAINING_ONLY, UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.model.masking import UniformMasking
from fastmim.parts import ImageSpec
from fastmim.tasks import classify
from tests.methods import published_backbones as published
from tests.methods.tiny import ENCODERS, ROOT

MEAN = (0.5, 0.4, 0.3)
TINY_SWIN = {"window": 3, "embed_dim": 8, "depths": (2, 1, 1, 1), "num_heads": (1, 2, 2, 4)}
TINY_VIT = {"depth": 4, "embed_dim": 16, "num_heads": 2}
SWIN_LISTS = (8, TINY_SWIN["depths"], TINY_SWIN["num_heads"], 3)
BEIT = {"shared_bias": False, "absolute_pos": True}
ABSENT = {f"norm{i}.{p}" for i in range(3) for p in ("weight", "bias")}
"""Norms of the first three maps, which pre-training lacks."""

# library, encoder, image size, names and shapes that the library has
CASES = {
    "mmdet Swin-B": (
        openmmlab,
        Swin(window=7),
        (224, 224),
        published.openmmlab_swin(128, (2, 2, 18, 2), (4, 8, 16, 32), 7),
    ),
    "mmdet Swin": (openmmlab, Swin(**TINY_SWIN), (192, 192), published.openmmlab_swin(*SWIN_LISTS)),
    "mmdet ResNet-50": (openmmlab, ResNet("resnet50"), (64, 64), published.resnet(50, 64, 64, False)),
    "mmdet ResNet-101": (openmmlab, ResNet("resnet101"), (64, 64), published.resnet(101, 64, 64, False)),
    "mmdet ResNet-18": (
        openmmlab,
        ResNet("resnet18", dims=(4, 8, 16, 32)),
        (64, 64),
        published.resnet(18, 4, 64, False),
    ),
    "mmdet ViT-B": (openmmlab, ViT(), (224, 224), published.mmpretrain_vit(768, 12, 16, 196)),
    "mmdet BEiT": (
        openmmlab,
        BEiT(**TINY_VIT),
        (32, 64),
        published.mmpretrain_beit(16, 4, 2, 16, (2, 4), shared=True, absolute=False),
    ),
    "mmdet A2MIM ViT": (
        openmmlab,
        BEiT(**TINY_VIT, **BEIT),
        (32, 32),
        published.mmpretrain_beit(16, 4, 2, 16, (2, 2), shared=False, absolute=True),
    ),
    "mmdet ConvNeXt-S": (
        openmmlab,
        ConvNeXt(),
        (64, 64),
        published.mmpretrain_convnext((96, 192, 384, 768), (3, 3, 27, 3)),
    ),
    "detectron2 Swin-T": (
        detectron2,
        Swin("swin_tiny_patch4_window7_224"),
        (224, 224),
        published.detectron2_swin(96, (2, 2, 6, 2), (3, 6, 12, 24), 7),
    ),
    "detectron2 Swin": (detectron2, Swin(**TINY_SWIN), (192, 192), published.detectron2_swin(*SWIN_LISTS)),
    "detectron2 ViT-L": (
        detectron2,
        ViT("vit_large_patch16_224"),
        (224, 224),
        published.detectron2_vit(1024, 24, 16, 196),
    ),
    "detectron2 ResNet-50": (detectron2, ResNet("resnet50"), (64, 64), published.resnet(50, 64, 64, True)),
    "detectron2 ResNet-18": (detectron2, ResNet("resnet18"), (64, 64), published.resnet(18, 64, 64, True)),
}


def encoder_of(spec, size: tuple[int, int]) -> nn.Module:
    return spec.build(ImageSpec(size, MEAN, MEAN), UniformMasking(secondary=0.0))


def randomized(module: nn.Module) -> nn.Module:
    """Gives every parameter its own value, biases and norms too."""
    generator = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *(b for n, b in module.named_buffers() if "running" in n)):
        tensor.data += 0.1 * torch.rand(tensor.shape, generator=generator)
    return module


@pytest.mark.parametrize("case", CASES)
def test_names_and_shapes_are_the_library_s(case):
    library, spec, size, expected = CASES[case]
    spec = replace(spec, reads="all") if isinstance(spec, ViT) else spec
    with torch.device("meta"):
        encoder = encoder_of(spec, size)
    found = library.find_backbone(spec, encoder, ImageSpec(size, MEAN, MEAN)).to_library(
        encoder_tensors(encoder, PRETRAINING_ONLY)
    )
    found = {name.removeprefix("backbone."): tuple(tensor.shape) for name, tensor in found.items()}
    absent = ABSENT if any(name.startswith("norm0.") for name in expected) else set()
    assert found == {name: shape for name, shape in expected.items() if name not in absent}


@pytest.mark.parametrize("case", [case for case in CASES if "-" not in case or "18" in case])
def test_values_come_back(case):
    library, spec, size, _ = CASES[case]
    encoder = randomized(encoder_of(spec, size))
    ours = encoder_tensors(encoder, PRETRAINING_ONLY)
    backbone = library.find_backbone(spec, encoder, ImageSpec(size, MEAN, MEAN))
    back = backbone.to_ours(backbone.to_library(ours))
    assert len(back) > 20 and all(torch.equal(tensor, ours[name]) for name, tensor in back.items())
    left = {name.rpartition(".")[2] for name in ours.keys() - back.keys()}
    assert left <= ({"num_batches_tracked"} if library is detectron2 else set())


def test_merged_patches_are_in_the_order_of_unfold():
    """mmcv's PatchMerging is nn.Unfold of 2 x 2 (channel, row, column), then norm and linear layer."""
    spec, size = CASES["mmdet Swin"][1:3]
    encoder = randomized(encoder_of(spec, size))
    state = openmmlab.find_backbone(spec, encoder, ImageSpec(size, MEAN, MEAN)).to_library(
        encoder_tensors(encoder, PRETRAINING_ONLY)
    )
    x = torch.randn(2, 6, 4, 8, generator=torch.Generator().manual_seed(0))
    unfolded = F.unfold(x.permute(0, 3, 1, 2), 2, stride=2).transpose(1, 2)
    name = "backbone.stages.0.downsample"
    merged = F.layer_norm(unfolded, (32,), state[f"{name}.norm.weight"], state[f"{name}.norm.bias"])
    merged = F.linear(merged, state[f"{name}.reduction.weight"])
    expected = encoder.backbone.layers[1].downsample(x).flatten(1, 2)
    torch.testing.assert_close(merged, expected, rtol=0, atol=1e-5)


def test_indices_of_windows_are_openmmlab_s():
    """mmdet's WindowMSA makes its index from sums instead of differences."""
    spec, size = CASES["mmdet Swin"][1:3]
    encoder = encoder_of(spec, size)
    state = openmmlab.find_backbone(spec, encoder, ImageSpec(size, MEAN, MEAN)).to_library(
        encoder_tensors(encoder, PRETRAINING_ONLY)
    )
    place = (torch.arange(3)[:, None] * 5 + torch.arange(3)).flatten()
    expected = (place[:, None] + place).flip(1)
    assert torch.equal(state[f"backbone.stages.0.blocks.0.attn.w_msa.{INDEX}"], expected)


def config_of(spec, size: tuple[int, int]) -> Config:
    methods = {"BEiT": "simmim/pretrain/vit_base_patch16_224_800ep", "ViT": "mae/pretrain/vit_base_patch16_224_800ep"}
    methods |= {"Swin": "simmim/pretrain/swin_base_window6_192_800ep", "ResNet": "a2mim/pretrain/resnet50_300ep"}
    methods |= {
        "ConvNeXt": "a2mim/pretrain/convnext_small_300ep",
        "ConvMAE": "convmae/pretrain/convmae_base_224_1600ep",
    }
    methods |= {"UMSwin": "um_mae/pretrain/swin_tiny_256_200ep", "UMPVT": "um_mae/pretrain/pvt_small_256_200ep"}
    config = load(ROOT / f"configs/{methods[type(spec).__name__]}.py")
    decoder = config.decoder
    if hasattr(decoder, "dim"):
        decoder = replace(decoder, dim=16, depth=1, num_heads=2)
    return replace(config, encoder=spec, decoder=decoder, data=Data(crop=CenterCrop(), size=size, mean=MEAN))


EXPORTED = {
    "Swin": (Swin(**TINY_SWIN), (192, 192), ("mmdet", "mmseg", "detectron2")),
    "ViT": (ViT(**TINY_VIT), (32, 32), ("mmdet", "mmseg", "detectron2")),
    "BEiT": (BEiT(**TINY_VIT), (64, 64), ("mmdet", "mmseg")),
    "ResNet": (ResNet("resnet18", dims=(4, 8, 16, 32)), (64, 64), ("mmdet", "mmseg")),
    "ConvNeXt": (ConvNeXt(**ENCODERS["ConvNeXt"]), (64, 64), ("mmdet", "mmseg")),
}


@pytest.mark.parametrize("name", EXPORTED)
def test_a_file_a_fragment_and_a_card(name, tmp_path):
    """The file is read as an official file. The config is Python that names the file and the run's colours."""
    spec, size, libraries = EXPORTED[name]
    config = config_of(spec, size)
    state = randomized(build(config)).state_dict()
    for library in libraries:
        folder = export.export_encoder(config, state, tmp_path / library, library)
        assert {path.name for path in folder.iterdir()} == {"backbone.pth", "config.py", "README.md"}
        file = read_official(folder / "backbone.pth")
        code = (folder / "config.py").read_text()
        ast.parse(code)
        assert f'"{folder}/backbone.pth"' in code.replace("'", '"') and code in (folder / "README.md").read_text()
        if library == "detectron2":
            assert (file.container, file.rest) == ("model", {"__author__": "fastmim", "matching_heuristics": True})
            assert "model.pixel_mean = [127.5, 102.0, 76.5]" in code
            continue
        assert file.container == "state_dict" and all(n.startswith("backbone.") for n in file.state)
        found: dict = {}
        exec(code, found)  # noqa: S102
        model = found["model"]
        assert model["data_preprocessor"]["mean"] == [127.5, 102.0, 76.5]
        assert model["backbone"]["init_cfg"]["prefix"] == "backbone."
        heads = model["neck"] if library == "mmdet" else model["decode_head"]
        assert len(heads["in_channels"]) == 4
        assert ("custom_imports" in found) == (name not in ("Swin", "ResNet"))


def test_a_fine_tuned_encoder_leaves_without_classifier_and_moved_norm(tmp_path):
    data = LabelledData(crop=CenterCrop(), size=(32, 32), mean=MEAN)
    config = Finetune(encoder=ViT(**TINY_VIT), data=data, head=Head("mean", "after"))
    module = classify.build_classifier(config, 5, torch.zeros(1, dtype=torch.int64))
    folder = export.export_encoder(config, module.state_dict(), tmp_path / "out", "mmdet")
    assert "backbone.ln1.weight" not in read_official(folder / "backbone.pth").state
    assert "final_norm=False" in (folder / "config.py").read_text()
    assert (
        "The file does not hold the classifier, nor the norm between pooling and classifier."
        in (folder / "README.md").read_text()
    )


@pytest.mark.parametrize(
    ("spec", "size", "to", "message"),
    [
        (
            ConvMAE(**ENCODERS["ConvMAE"]),
            (32, 32),
            "detectron2",
            "Detectron2 has no ConvMAE in this form; `fastmim conv",
        ),
        (UMSwin(**ENCODERS["UMSwin"]), (128, 128), "mmdet", "OpenMMLab has no UMSwin in this form"),
        (UMPVT(**ENCODERS["UMPVT"]), (128, 128), "mmseg", "OpenMMLab has no UMPVT in this form"),
        (
            BEiT(**TINY_VIT),
            (64, 64),
            "detectron2",
            "Detectron2 has no BEiT; this encoder can go --to timm, mmdet, mmseg",
        ),
        (ViT(**TINY_VIT), (32, 48), "detectron2", "positions of a square image"),
        (ViT(**TINY_VIT | {"depth": 2}), (32, 32), "mmseg", "reads 4 blocks of a ViT, this ViT has 2"),
        (ResNet(**ENCODERS["ResNet"]), (64, 64), "mmdet", "this encoder is resnet50 with (1, 1, 2, 1) blocks"),
        (
            ResNet("resnet18", dims=(4, 8, 16, 32)),
            (64, 64),
            "detectron2",
            "stages of (64, 128, 256, 512) channels",
        ),
        (ResNet("resnet18", dims=(4, 4, 4, 4)), (64, 64), "mmdet", "twice as wide"),
        (ResNet("resnet18", output_stride=8), (64, 64), "detectron2", "output_stride=8: dilated"),
        (ConvNeXt(**ENCODERS["ConvNeXt"], output_stride=16), (64, 64), "mmdet", "output_stride=16: dilated"),
        (Swin(**TINY_SWIN), (64, 64), "mmdet", "square windows of one size"),
        (ConvNeXt("convnextv2_atto", **ENCODERS["ConvNeXt"]), (64, 64), "mmdet", "no place for"),
    ],
)
def test_what_has_no_place_there_is_refused(spec, size, to, message, tmp_path):
    config = config_of(spec, size)
    with pytest.raises(ValueError, match=r"^--to") as error:
        export.export_encoder(config, build(config).state_dict(), tmp_path / "out", to)
    assert message in str(error.value) and "can go --to" in str(error.value)
    assert not list(tmp_path.iterdir())
