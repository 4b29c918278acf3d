"""Parts of all methods in combination: fitting ones train a step, others are refused at build, with advice."""

import math
from dataclasses import replace

import pytest
import torch

from fastmim.config.base import Config, Data, Train
from fastmim.data.crops import RandomResizedCrop
from fastmim.engine.optim import parameter_groups
from fastmim.engine.stage0 import AdamW
from fastmim.model.decoders import LinearHead, TransformerDecoder
from fastmim.model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.model.losses import ComplexFocalL1, FocalFrequency, MaskedFocalL1, MaskedL1, MaskedL2, WithFourier
from fastmim.model.masking import BlockMasking, JointMasking, RandomMasking, UniformMasking
from fastmim.model.targets import LowPass, NormalizedPatches, Pixels
from fastmim.parts import ImageSpec
from fastmim.tasks.pretrain import build
from tests.methods.tiny import tiny


def compose(masking, encoder, decoder=None, target=None, loss=None, size=(64, 64), channels=3):
    decoder = decoder or (TransformerDecoder() if getattr(encoder, "reads", "all") == "visible" else LinearHead())
    data = Data(crop=RandomResizedCrop(), size=size, mean=(0.5,) * channels, std=(0.25,) * channels)
    parts = dict(masking=masking, encoder=encoder, decoder=decoder)
    parts |= dict(target=target or NormalizedPatches(), loss=loss or MaskedL2())
    return tiny(Config(**parts, data=data, train=Train(seed=1)))


def train_a_step(config):
    """Trains one update on noise: the loss is finite, every trained parameter has a gradient, weights change."""
    mim = build(config)
    optimizer = AdamW(parameter_groups(mim, config.optim), config.optim.betas, config.optim.eps)
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    before = {name: p.detach().clone() for name, p in mim.named_parameters() if p.requires_grad}
    shape = (2, *config.data.size, len(config.data.mean))
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loss = mim(images, torch.arange(2))
    loss.backward()
    assert torch.isfinite(loss) and loss > 0
    assert not [name for name in before if mim.get_parameter(name).grad is None]
    optimizer.step()
    assert optimizer.found_inf == 0 < optimizer.grad_norm
    changed = {name.split(".")[0] for name, p in before.items() if not torch.equal(p, mim.get_parameter(name))}
    assert changed == {"encoder", "decoder"}


ENCODERS = {
    "ViT": ViT(),
    "ViT, all": ViT(reads="all"),
    "BEiT": BEiT(),
    "Swin": Swin(),
    "ConvMAE": ConvMAE(),
    "ResNet": ResNet(),
    "ConvNeXt": ConvNeXt(),
    "ResNet, visible": ResNet(reads="visible"),
    "ConvNeXt, visible": ConvNeXt(reads="visible"),
    "UMSwin": UMSwin(),
    "UMPVT": UMPVT(),
    "UMSwin, all": UMSwin(reads="all"),
    "UMPVT, all": UMPVT(reads="all"),
}
READS_VISIBLE = {"ViT", "ConvMAE", "ResNet, visible", "ConvNeXt, visible", "UMSwin", "UMPVT"}
COMPACT = READS_VISIBLE - {"ViT", "ConvMAE"}
MASKINGS = {
    "random": RandomMasking(0.5),
    "blocks": BlockMasking(0.5),
    "joint": JointMasking(0.5),
    "uniform": UniformMasking(0.0),
    "uniform, secondary": UniformMasking(0.25),
}
DECODERS = {"transformer": TransformerDecoder(), "head": LinearHead()}
COMPARISONS = [
    (NormalizedPatches(), MaskedL2()),
    (Pixels(), MaskedL1()),
    (LowPass(radius=10), MaskedL2()),
    (Pixels(), WithFourier(spatial=MaskedFocalL1(), fourier=FocalFrequency(batch=2))),
    (LowPass(radius=10, norm_pix=False), WithFourier(fourier=ComplexFocalL1())),
]


def refusal(encoder, masking, decoder):
    """Returns a regular expression for the refusal of a combination, or None if it works."""
    if encoder in COMPACT and not masking.startswith("uniform"):
        return "UniformMasking"
    if masking == "uniform, secondary" and encoder not in READS_VISIBLE - {"ConvMAE"}:
        return "secondary"
    if decoder == "head" and encoder in READS_VISIBLE:
        return "TransformerDecoder"
    return None


@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_every_combination_trains_or_is_refused(encoder, masking, decoder):
    """Cycles through targets and losses, which see predictions and images only."""
    number = list(ENCODERS).index(encoder) + list(MASKINGS).index(masking) + list(DECODERS).index(decoder)
    comparison = COMPARISONS[number % len(COMPARISONS)]
    # Patches of 32 pixels: a grid of 2 x 2 holds no joint blocks.
    size = (128, 128) if encoder in ("Swin", "ResNet", "ConvNeXt") else (64, 64)
    config = compose(MASKINGS[masking], ENCODERS[encoder], DECODERS[decoder], *comparison, size=size)
    if words := refusal(encoder, masking, decoder):
        with pytest.raises(ValueError, match=words):
            build(config)
    else:
        train_a_step(config)


NAMED = {
    "PixMIM's target on UM-MAE's Swin": compose(UniformMasking(), UMSwin(), target=LowPass()),
    "PixMIM's target on ConvMAE": compose(RandomMasking(), ConvMAE(), TransformerDecoder(), LowPass()),
    "A2MIM's loss on MAE": compose(RandomMasking(), ViT(), target=Pixels(), loss=WithFourier()),
    "A Fourier loss alone": compose(BlockMasking(), ResNet(), target=Pixels(), loss=FocalFrequency(batch=2, crops=2)),
    "UM-MAE on a ViT-L": compose(UniformMasking(), ViT("vit_large_patch16_224")),
    "UM-MAE on a ResNet-50": compose(UniformMasking(), ResNet("resnet50", reads="visible")),
    "UM-MAE on a ConvNeXt": compose(UniformMasking(), ConvNeXt("convnext_base", reads="visible")),
    "LSMAE's masks on a Swin": compose(JointMasking(0.5), Swin(), size=(128, 128)),
    "SimMIM's masks on MAE": compose(BlockMasking(), ViT()),
    "a decoder of blocks on SimMIM": compose(BlockMasking(), Swin(), TransformerDecoder(), size=(128, 128)),
    "A2MIM's token on a Swin": compose(
        BlockMasking(), Swin(fill="mean", token="gated", token_layer=3), size=(128, 128)
    ),
}


@pytest.mark.parametrize("name", NAMED)
def test_parts_of_different_methods(name):
    train_a_step(NAMED[name])


OTHERS = [
    ViT("vit_small_patch32_224"), ViT("deit_tiny_patch16_224"), ViT("vit_base_patch8_224"),
    ViT("vit_base_patch16_clip_224"),
    BEiT("beitv2_base_patch16_224"), Swin("swin_small_patch4_window7_224"), Swin("swin_s3_tiny_224"),
    ResNet("resnet18"), ResNet("wide_resnet50_2"), ResNet("resnext50_32x4d"), ResNet("seresnet50"), ResNet("resnet50d"),
    ConvNeXt("convnext_atto"), ConvNeXt("convnextv2_nano"), ConvNeXt("convnext_large_mlp"),
]  # fmt: skip


@pytest.mark.parametrize("encoder", OTHERS, ids=lambda encoder: encoder.name)
def test_other_models_of_timm(encoder):
    train_a_step(compose(RandomMasking(0.5), encoder, size=(128, 128)))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("channels", [1, 4])
def test_other_numbers_of_channels(name, channels):
    masking = UniformMasking(0.0) if name in COMPACT else RandomMasking(0.5)
    train_a_step(compose(masking, ENCODERS[name], size=(128, 128), decoder=fitting(name), channels=channels))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("size", [(64, 128), (192, 64)])
def test_rectangular_images(name, size):
    masking = UniformMasking(0.0) if name in COMPACT else RandomMasking(0.5)
    train_a_step(compose(masking, ENCODERS[name], size=size, decoder=fitting(name), target=LowPass(radius=10)))


def fitting(name):
    return TransformerDecoder() if name in READS_VISIBLE else LinearHead()


@pytest.mark.parametrize("encoder", [
    ViT(patch_size=8), ViT(patch_size=32), BEiT(patch_size=8), Swin(patch_size=2), ConvMAE(patch_sizes=(2, 2, 2)),
])  # fmt: skip
def test_other_patch_sizes(encoder):
    config = compose(RandomMasking(0.5), encoder, fitting(type(encoder).__name__))
    expected = encoder.patch_size if not isinstance(encoder, ConvMAE) else math.prod(encoder.patch_sizes)
    assert build(config).encoder.patch_size == (16 if isinstance(encoder, Swin) else expected)
    train_a_step(config)


IMPOSSIBLE = {
    "an odd grid for uniform masks": (compose(UniformMasking(), ViT(), size=(48, 64)), "even number .* 32 x 64"),
    "ViT's patches": (compose(RandomMasking(), ViT(), size=(60, 64)), "multiple of 16 .*nearest is"),
    "Swin's last stage": (compose(BlockMasking(), Swin(), size=(80, 64)), "multiple of 32 .*nearest is"),
    "ResNet's stride": (compose(BlockMasking(), ResNet(), size=(80, 64)), "multiple of 32 .*nearest is"),
    "a compact ResNet": (compose(UniformMasking(), ResNet(reads="visible"), size=(96, 64)), "multiple of 64 .*nearest"),
    "ConvMAE's patches": (compose(RandomMasking(), ConvMAE(), TransformerDecoder(), size=(60, 64)), "multiple .* 16 "),
    "UM-MAE's Swin": (compose(UniformMasking(), UMSwin(), size=(96, 64)), "multiple of 64 .*nearest is"),
    "UM-MAE's PVT": (compose(UniformMasking(), UMPVT(), size=(96, 64)), "multiple of 64 .*nearest is"),
    "blocks smaller than patches": (compose(BlockMasking(block=16), Swin()), "block=16 .* nearest that does is 32"),
    "blocks that leave a rest": (compose(BlockMasking(block=48), ViT()), "block=48 .* nearest that does is 32"),
    "one block for all patches": (compose(JointMasking(side=4), ViT()), "side=4: .*at most 3"),
    "all patches hidden": (compose(RandomMasking(0.99), ViT()), "ratio=0.99 leaves 0 of 16"),
    "no such stage": (compose(BlockMasking(), Swin(token_layer=7)), "token_layer: expected at most 4 .*got 7"),
    "no such block": (compose(BlockMasking(), BEiT(token_layer=3)), "token_layer: expected at most 2 .*got 3"),
    "a Swin as a ViT": (compose(RandomMasking(), ViT("swin_tiny_patch4_window7_224")), "VisionTransformer"),
    "a ViT as a ResNet": (compose(BlockMasking(), ResNet("vit_base_patch16_224")), "ResNet of timm.*near it: "),
    "a misspelt name": (compose(BlockMasking(), ConvNeXt("convnext_smal")), "near it: convnext_small"),
    "a ViT without a class token": (compose(RandomMasking(), ViT("vit_base_patch16_siglip_224")), "class token"),
    "a hybrid as a ViT": (compose(RandomMasking(), ViT("vit_small_r26_s32_224")), "hybrid"),
    "crops that leave a rest": (
        compose(BlockMasking(), ResNet(), target=Pixels(), loss=FocalFrequency(crops=5)), "nearest is crops=4",
    ),
    "crops inside another loss": (
        compose(BlockMasking(), ResNet(), target=Pixels(), loss=WithFourier(fourier=FocalFrequency(crops=3))),
        "nearest is crops=2",
    ),
    "UM-MAE's order of positions in MAE": (
        compose(RandomMasking(), ViT(), TransformerDecoder(official_pos_order=True)), "official_pos_order",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_is_refused_at_build(name):
    config, words = IMPOSSIBLE[name]
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        build(config)


def test_a_decoder_whose_width_has_no_positions():
    config = compose(RandomMasking(), ViT())
    with pytest.raises(ValueError, match="divisible by 4, got 30"):
        build(replace(config, decoder=TransformerDecoder(dim=30, depth=1, num_heads=2)))


# compose() makes models small by fields of its own; these are as they are written.
SIZES = {
    "heads that do not divide a ViT": (ViT(depth=1, num_heads=5), "num_heads=5.*divisible by num_heads"),
    "heads for too few stages of a Swin": (Swin(depths=(1, 1, 1, 1), num_heads=(2, 2)), r"num_heads=\(2, 2\)"),
}
FIELDS = {
    "no block": lambda: ViT(depth=0),
    "no heads": lambda: BEiT(num_heads=0),
    "a stage without a block": lambda: Swin(depths=(1, 0)),
    "every block dropped": lambda: Swin(drop_path=1.0),
    "a layer before the first": lambda: ViT(token_layer=-1),
    "no images for batch norm": lambda: ResNet(bn_batch=0),
    "stages that a ResNet has not": lambda: ResNet(depths=(1, 1, 1)),
    "patches of nothing": lambda: ConvMAE(patch_sizes=(0, 2, 2)),
    "averages of nothing": lambda: UMPVT(reductions=(0, 0, 0, 0)),
    "no hidden units": lambda: UMSwin(posmlp_dim=0),
    "a decoder of nothing": lambda: TransformerDecoder(dim=0),
    "text for a number": lambda: ViT(depth="2"),
}


@pytest.mark.parametrize("name", SIZES)
def test_sizes_that_do_not_fit_each_other_are_refused_at_build(name):
    encoder, words = SIZES[name]
    with pytest.raises(ValueError, match=words), torch.device("meta"):
        encoder.build(ImageSpec((64, 64), (0.5,) * 3, (0.25,) * 3), RandomMasking())


@pytest.mark.parametrize("name", FIELDS)
def test_values_out_of_bounds_are_refused_where_they_are_written(name):
    with pytest.raises(ValueError, match=r"coder\.\w+: expected .*, got "):
        FIELDS[name]()
