"""SimMIM and A2MIM's ViT: equal to the official outputs, to the published way, and to timm."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fastmim.config.base import Config, Data
from fastmim.config.config_file import load
from fastmim.convert.a2mim_vit import FORMATS as OPENMIXUP
from fastmim.convert.simmim import FORMATS as MICROSOFT
from fastmim.data.crops import CenterCrop
from fastmim.engine.optim import learning_rate, parameter_groups
from fastmim.export.export import export_encoder
from fastmim.export.timm_models import timm_encoder, timm_tokens
from fastmim.model.decoders import LinearHead, TransformerDecoder
from fastmim.model.encoders import BEiT, Swin, ViT
from fastmim.model.losses import MaskedL1
from fastmim.model.masking import BlockMasking, UniformMasking
from fastmim.model.mim import MIM
from fastmim.model.objective import Objective
from fastmim.model.targets import Pixels
from fastmim.parts import ImageSpec
from fastmim.tasks.pretrain import build
from fastmim.tokens import Mask, patchify, take, unpatchify

SWIN_NAMES, VIT_NAMES = MICROSOFT
A2MIM_NAMES, BASELINE_NAMES = OPENMIXUP
GOLDEN = Path(__file__).parents[1] / "golden"
IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
MEAN, STD = IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY_SWIN = Swin("swin_tiny_patch4_window7_224", 3, embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8))
TINY_BEIT = BEiT("beit_base_patch16_224", embed_dim=24, depth=3, num_heads=4, drop_path=0.0)
A2MIM = dict(absolute_pos=True, shared_bias=False, init="a2mim", fill="mean", token="add")
VIT_S = dict(depth=8, num_heads=8, mlp_ratio=3.0)


def mim_of(spec, size, statistics=IMAGENET):
    encoder = spec.build(ImageSpec(size, *statistics), BlockMasking())
    objective = Objective(Pixels(), MaskedL1(), encoder.patch_size, ImageSpec(size, *statistics))
    return MIM(BlockMasking(), encoder, LinearHead().build(encoder), objective, seed=0)


def randomized(module, std=0.1):
    for p in filter(lambda p: p.requires_grad, module.parameters()):
        torch.nn.init.normal_(p, std=std)
    return module


@pytest.fixture
def official(golden):
    """Returns microsoft's tiny Swin: images (B, H, W, C), mask, our MIM with its weights, recorded outputs."""
    data = golden("forward_simmim_swin_ms_tiny")
    mim = mim_of(TINY_SWIN, (96, 96), IDENTITY)
    state, unmatched = SWIN_NAMES.to_ours({k[3:]: v for k, v in data.items() if k.startswith("sd/")})
    assert not unmatched
    mim.load_state_dict(state, strict=True)
    hidden = data["mask"][:, ::8, ::8].flatten(1)
    mask = Mask(hidden.argsort(dim=1, stable=True), 3, (3, 3))
    assert torch.equal(mask.hidden_map((24, 24)), data["mask"].bool())
    return data["img"].permute(0, 2, 3, 1).contiguous(), mask, mim, data


def test_forward_of_swin(official):
    """Covers shifted windows, and windows cut to the grid of the last stage, in float64."""
    images, mask, mim, data = official
    mim.double()
    latent = mim.encoder(images.double(), mask)
    torch.testing.assert_close(latent.mT.unflatten(2, (3, 3)), data["latent"].double(), rtol=0, atol=5e-6)
    pred = mim.decoder(latent, mask, 6)
    expected = take(patchify(data["pred"].permute(0, 2, 3, 1), 32), mask.ids_hidden)
    torch.testing.assert_close(pred, expected.double(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_loss_and_gradients_of_swin(official, checkpointing):
    images, mask, mim, data = official
    mim.encoder.grad_checkpointing = checkpointing
    loss = mim.objective(mim.predict(images, mask), images, mask)
    torch.testing.assert_close(loss, data["loss"][0], rtol=1e-5, atol=0)
    loss.backward()
    gradients, unmatched = SWIN_NAMES.to_official({k: p.grad for k, p in mim.named_parameters()})
    assert not unmatched and set(gradients) == set(map(str, data["gradnorm_keys"]))
    for key, norm in zip(data["gradnorm_keys"], data["gradnorm"], strict=True):
        torch.testing.assert_close(gradients[str(key)].norm(), norm, rtol=1e-4, atol=1e-8, msg=str(key))


def test_loss_and_its_gradient(golden):
    """The loss equals the published one at patches of 4 pixels; the hidden tokens are a mask of one tall image."""
    data = golden("simmim_loss")
    images = data["ms/img"].permute(0, 2, 3, 1).reshape(1, 128, 64, 3).contiguous()
    pred = data["ms/pred"].requires_grad_()
    rows = data["ms/mask"].flatten().nonzero()[:, 0]
    patches = patchify(pred.permute(0, 2, 3, 1), 4).flatten(0, 1)[rows]
    loss = Objective(Pixels(), MaskedL1(), 4, ImageSpec((128, 64), *IDENTITY))(
        patches[None], images, Mask(rows[None], 0, (32, 16))
    )
    loss.backward()
    torch.testing.assert_close(loss, data["ms/loss"][0], rtol=1e-5, atol=0)
    expected = data["ms/grad"]
    torch.testing.assert_close(pred.grad, expected, rtol=0, atol=1e-4 * expected.abs().max().item())


def test_masks_follow_the_official_law(golden):
    """22 of 36 blocks of 32 pixels are hidden as wholes, each equally often, as in the official draws."""
    theirs = golden("simmim_loss")["ms/mask_192_32_4_060"]
    ids = torch.arange(2000)
    for patch_size in (32, 16, 4):
        side = 192 // patch_size
        mask = BlockMasking()(0, ids[:64], (side, side), patch_size)
        for drawn in (theirs.bool(), mask.hidden_map((48, 48))):
            cells = drawn[:, ::8, ::8]
            assert torch.equal(cells.repeat_interleave(8, 1).repeat_interleave(8, 2), drawn)
            assert (cells.sum(dim=(1, 2)) == 22).all()
    hidden = BlockMasking()(0, ids, (6, 6), 32).mask.double().mean(dim=0)
    assert (hidden - 22 / 36).abs().max() < 5 * np.sqrt(22 / 36 * 14 / 36 / 2000)
    assert BlockMasking()(0, ids[:1], (14, 14), 16).ids_hidden.shape[1] == 4 * 30  # 30 of 49 blocks at 224


A2MIM_BEIT = replace(TINY_BEIT, **A2MIM)


@pytest.mark.parametrize(
    ("spec", "size"),
    [
        (TINY_SWIN, (96, 160)),
        (replace(TINY_SWIN, window=7, token_layer=4), (64, 64)),
        (TINY_BEIT, (64, 96)),
        (replace(TINY_BEIT, **A2MIM), (64, 96)),
    ],
)
def test_features_are_those_of_timm(spec, size):
    """Features are timm's bit for bit; training with nothing hidden gives the same."""
    import timm

    encoder = randomized(spec.build(ImageSpec(size, *IMAGENET), BlockMasking())).eval()
    export = timm_encoder(spec, size)
    model = timm.create_model(export["architecture"], num_classes=0, **export["model_args"]).eval()
    model.load_state_dict(encoder.backbone.state_dict(), strict=True)
    images = torch.randint(0, 256, (2, *size, 3), dtype=torch.uint8)
    pixels = ((images.float() / 255 - torch.tensor(MEAN)) / torch.tensor(STD)).permute(0, 3, 1, 2).contiguous()
    expected = timm_tokens(spec, model, pixels)
    assert torch.equal(encoder.features(pixels), expected)
    total = encoder.grid[0] * encoder.grid[1]
    nothing = Mask(torch.arange(total).expand(2, -1), total, encoder.grid)
    torch.testing.assert_close(encoder(images, nothing), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "names", "spec", "size"),
    [
        ("simmim_swin_base_192_window6", SWIN_NAMES, Swin("swin_base_patch4_window7_224", 6), 192),
        ("simmim_vit_base_224", VIT_NAMES, BEiT(), 224),
        ("a2mim_vit_base", A2MIM_NAMES, BEiT(**A2MIM), 224),
    ],
)
def test_official_names_and_shapes(name, names, spec, size):
    """Names convert both ways, and each official file is recognised by its own format only."""
    entries = json.loads((GOLDEN / f"state_dict_keys/{name}.json").read_text())["entries"]
    official = {e["key"]: torch.empty(e["shape"], device="meta") for e in entries}
    with torch.device("meta"):
        mim = mim_of(spec, (size, size))
    ours, unmatched = names.to_ours(official)
    assert not unmatched
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in mim.state_dict().items()}
    back, unmatched = names.to_official(mim.state_dict())
    assert not unmatched
    parameters = {e["key"]: torch.Size(e["shape"]) for e in entries if e["kind"] == "param"}
    assert {k: v.shape for k, v in back.items()} == parameters
    assert [f for f in (*MICROSOFT, *OPENMIXUP) if f.recognises(official)] == [names]


def test_the_baseline_is_distinguished_from_a2mim():
    """openmixup's SimMIM has A2MIM's names, except for its head `neck.decoder` (`mim_neck.py` `SimMIMNeck`)."""
    with torch.device("meta"):
        mim = mim_of(replace(TINY_BEIT, **A2MIM | {"fill": "none", "token": "replace"}), (64, 64))
    official, unmatched = BASELINE_NAMES.to_official(mim.state_dict())
    assert not unmatched and official["neck.decoder.0.weight"].shape == (768, 24, 1, 1)
    assert [f for f in (*MICROSOFT, *OPENMIXUP) if f.recognises(official)] == [BASELINE_NAMES]
    config = BASELINE_NAMES.config(BASELINE_NAMES.to_ours(official)[0])
    assert (config.encoder.fill, config.encoder.token, config.loss) == ("none", "replace", MaskedL1())


@pytest.mark.parametrize(
    ("encoder", "size", "millions"),
    [
        (Swin("swin_base_patch4_window7_224", 6), 192, (86.725, 3.149)),
        (Swin("swin_large_patch4_window7_224", 12), 192, (195.160, 4.722)),
        (Swin("swin_tiny_patch4_window7_224", 6), 192, (27.513, 2.362)),
        (Swin("swin_tiny_patch4_window7_224", 7), 224, (27.519, 2.362)),
        (BEiT(), 224, (85.666, 0.591)),
        # With a 1000-class head and without the mask token: 48.826, 86.682, 304.632 M.
        (BEiT(**A2MIM, **VIT_S), 224, (48.826 - 0.769 + 0.001, 0.591)),
        (BEiT(**A2MIM), 224, (86.682 - 0.769 + 0.001, 0.591)),
        (BEiT("beit_large_patch16_224", **A2MIM), 224, (304.632 - 1.025 + 0.001, 0.787)),
    ],
)
def test_parameter_counts(encoder, size, millions):
    with torch.device("meta"):
        mim = mim_of(encoder, (size, size))
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (mim.encoder, mim.decoder)]
    assert [round(count, 3) for count in counts] == [round(count, 3) for count in millions]


def test_initialisation():
    """SimMIM's weights are normal, cut at one deviation, over sqrt(2 i) at the ends of block i; A2MIM's not."""
    torch.manual_seed(0)
    simmims, a2mims = (
        replace(TINY_BEIT, embed_dim=64, **extra).build(ImageSpec((64, 96), *IMAGENET), BlockMasking())
        for extra in ({}, A2MIM)
    )
    cut = 0.02 * 0.5396  # deviation of a normal one cut at one deviation
    for i, (block, plain) in enumerate(zip(simmims.backbone.blocks, a2mims.backbone.blocks, strict=True), 1):
        for weight, deviation in (
            (block.attn.qkv.weight, cut),
            (block.mlp.fc1.weight, cut),
            (block.attn.proj.weight, cut / np.sqrt(2 * i)),
            (block.mlp.fc2.weight, cut / np.sqrt(2 * i)),
            (plain.attn.proj.weight, 0.02),
            (plain.mlp.fc2.weight, 0.02),
        ):
            assert abs(weight.std().item() / deviation - 1) < 0.06
        assert (block.gamma_1 == 0.1).all() and (plain.gamma_2 == 0.1).all()
        assert (plain.attn.relative_position_bias_table == 0).all()
    assert (simmims.backbone.rel_pos_bias.relative_position_bias_table == 0).all()
    embeds = simmims.backbone.patch_embed.proj, a2mims.backbone.patch_embed.proj
    assert embeds[0].weight.abs().max() <= 0.02 and (embeds[0].bias == 0).all()
    assert embeds[1].weight.abs().max() <= 768**-0.5 and embeds[1].bias.abs().max() > 0  # torch's default
    assert simmims.token.mask_token.abs().max() <= 0.02 < a2mims.token.mask_token.abs().max()
    swin = TINY_SWIN.build(ImageSpec((96, 96), *IMAGENET), BlockMasking()).backbone
    table = swin.layers[2].blocks[0].attn.relative_position_bias_table
    assert abs(table.std().item() / 0.02 - 1) < 0.2
    assert abs(swin.layers[3].blocks[0].mlp.fc1.weight.std().item() / 0.02 - 1) < 0.02


def test_drop_path_is_on_in_training():
    torch.manual_seed(0)
    mim = randomized(mim_of(replace(TINY_BEIT, drop_path=0.5), (64, 96)))
    images, mask = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8), mim.mask(torch.arange(2))
    assert not torch.equal(mim.predict(images, mask), mim.predict(images, mask))
    assert torch.equal(mim.eval().predict(images, mask), mim.predict(images, mask))


@pytest.mark.parametrize("spec", [TINY_SWIN, replace(TINY_SWIN, token_layer=3), TINY_BEIT])
def test_hidden_pixels_are_not_seen(spec):
    """Hidden pixels change nothing, except through a token that replaces at a later layer."""
    mim = randomized(mim_of(spec, (96, 96))).eval()
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    mask = mim.mask(torch.arange(2))
    other = torch.where(mask.hidden_map((96, 96))[..., None], 255 - images, images)
    assert torch.equal(mim.predict(images, mask), mim.predict(other, mask)) == (spec.token_layer == 0)


@pytest.mark.parametrize("spec", [TINY_SWIN, TINY_BEIT, A2MIM_BEIT])
def test_weights_may_be_bf16(spec):
    """With train.precision "bf16-master", weights are cast to bf16 and buffers are not."""
    torch.manual_seed(0)
    mim = randomized(mim_of(spec, (96, 96)))
    images = torch.randint(0, 256, (2, 96, 96, 3), dtype=torch.uint8)
    expected = mim(images, torch.arange(2))
    for p in mim.parameters():
        p.data = p.data.bfloat16()
    torch.testing.assert_close(mim(images, torch.arange(2)), expected, rtol=0.02, atol=0)


@pytest.mark.parametrize(
    ("spec", "size", "masking", "message"),
    [
        (replace(TINY_SWIN, name="swin_base"), (96, 96), BlockMasking(), r"near it: .*swin_base_patch4"),
        (replace(TINY_BEIT, name="vit_base_patch16_224"), (96, 96), BlockMasking(), r"a Beit of timm.*beit_base"),
        (TINY_SWIN, (96, 100), BlockMasking(), r"multiple of 32 for swin_tiny.*nearest is \(96, 96\)"),
        (TINY_BEIT, (90, 96), BlockMasking(), r"multiple of 16.*nearest is \(96, 96\)"),
        (replace(TINY_SWIN, token_layer=5), (96, 96), BlockMasking(), "token_layer: expected at most 4"),
        (replace(TINY_BEIT, token_layer=4), (96, 96), BlockMasking(), "token_layer: expected at most 3"),
        (TINY_BEIT, (96, 96), UniformMasking(), "masking.secondary must be 0"),
        (TINY_SWIN, (96, 96), UniformMasking(), "masking.secondary must be 0"),
        (replace(TINY_SWIN, reads="visible"), (128, 128), BlockMasking(), "use UniformMasking, or reads=all"),
        (replace(TINY_SWIN, reads="visible"), (96, 128), UniformMasking(), r"multiple of 64.*nearest is \(128, 128\)"),
    ],
)
def test_what_cannot_be_is_refused(spec, size, masking, message):
    with pytest.raises(ValueError, match=message):
        spec.build(ImageSpec(size, *IMAGENET), masking)


CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize(
    ("file", "rates"),
    [
        # learning rates at epochs 0, just before and at the end of warm-up, just before and at 700, and at the end
        ("simmim/pretrain/swin_base_window6_192_100ep.py", {0: 4e-6, 10 - 1e-9: 8e-4, 10: 0.9768e-3 * 0.8, 100: 4e-5}),
        ("simmim/pretrain/swin_base_window6_192_800ep.py", {0: 2e-6, 10: 4e-4, 699.9: 4e-4, 700: 4e-5, 800: 4e-5}),
        ("simmim/pretrain/swin_large_window12_192_800ep.py", {0: 2e-6, 10: 4e-4, 699.9: 4e-4, 700: 4e-5}),
        ("simmim/pretrain/vit_base_patch16_224_800ep.py", {0: 2e-6, 10: 4e-4, 699.9: 4e-4, 700: 4e-5}),
        *(
            (f"a2mim/pretrain/{method}vit_{size}_patch16_224_800ep.py", {0: 8e-10, 10: 4e-4, 699.9: 4e-4, 700: 4e-5})
            for method in ("", "simmim_")
            for size in ("small", "base", "large")
        ),
    ],
)
def test_recipes(file, rates):
    """Parameter counts are the published ones, and weight decay applies to the right parameters."""
    config = load(CONFIGS / file)
    optim, data = config.optim, config.data
    assert (optim.betas, optim.eps, optim.weight_decay, optim.clip) == ((0.9, 0.999), 1e-8, 0.05, 5.0)
    assert (data.crop.scale, data.crop.ratio, data.crop.interpolation) == ((0.67, 1.0), (3 / 4, 4 / 3), "bilinear")
    assert (config.train.global_batch, config.masking) == (2048, BlockMasking(0.6, 32))
    for epoch, expected in rates.items():
        assert learning_rate(optim, config.train, epoch) == pytest.approx(expected, rel=1e-3), epoch

    with torch.device("meta"):
        mim = build(config)
    spared = {n for g in parameter_groups(mim, optim) if g["weight_decay"] == 0 for n in g["names"]}
    matrices = {n for n, p in mim.named_parameters() if p.ndim > 1}
    tables = {n for n in matrices if "relative_position_bias_table" in n}
    token, cls_token = {"encoder.token.mask_token"}, {"encoder.backbone.cls_token"}
    if file.startswith("a2mim"):
        assert spared & matrices == tables | token | cls_token | {"encoder.backbone.pos_embed"}
    else:
        assert tables and spared & matrices == (token if "swin" in file else cls_token)
    assert all(n in spared for n, p in mim.named_parameters() if p.ndim == 1)


TINY_VIT = ViT("vit_base_patch16_224", embed_dim=24, depth=3, num_heads=4, reads="all", pos="learned")


@pytest.mark.parametrize("spec", [TINY_VIT, replace(TINY_VIT, pos="sincos", fill="mean", token="add", token_layer=2)])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_plain_vit_reads_all(spec, checkpointing):
    """The result equals timm's model with the token inserted by a hook."""
    import timm

    torch.manual_seed(0)
    mim = randomized(mim_of(spec, (64, 96)))
    mim.encoder.grad_checkpointing = checkpointing
    assert mim.encoder.pos_embed.requires_grad == (spec.pos == "learned")
    images, mask = torch.randint(0, 256, (2, 64, 96, 3), dtype=torch.uint8), mim.mask(torch.arange(2))
    latent = mim.encoder(images, mask)

    export = timm_encoder(spec, (64, 96))
    model = timm.create_model(export["architecture"], num_classes=0, **export["model_args"])
    state = {k: v for k, v in mim.encoder.state_dict().items() if k != "token.mask_token"}
    model.load_state_dict(state, strict=True)
    token, hidden = mim.encoder.token.mask_token, mask.mask[..., None]
    pixels = mim.objective.normalize(images)
    if spec.token == "replace":
        model.patch_embed.register_forward_hook(lambda module, args, x: torch.where(hidden, token, x))
    else:
        hidden_pixels = mask.hidden_map((64, 96))[..., None]
        pixels = torch.where(hidden_pixels, pixels.mean(dim=(1, 2), keepdim=True), pixels)
        added = torch.nn.functional.pad(hidden * token, (0, 0, 1, 0))
        model.blocks[1].register_forward_pre_hook(lambda module, args: (args[0] + added,))
    expected = model.forward_features(pixels.permute(0, 3, 1, 2))
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-4)
    loss = mim.objective(mim.decoder(latent, mask, mask.ids_hidden.shape[1]), images, mask)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in mim.parameters() if p.requires_grad)


@pytest.mark.parametrize("spec", [TINY_SWIN, A2MIM_BEIT, TINY_VIT])
def test_export(spec, tmp_path):
    """timm loads the trained weights without the mask token."""
    import timm

    data = Data(crop=CenterCrop(), size=(96, 96))
    parts = dict(masking=BlockMasking(), decoder=LinearHead(), target=Pixels(), loss=MaskedL1(), data=data)
    config = Config(encoder=spec, **parts)
    weights = randomized(build(config)).state_dict()
    model = timm.create_model(f"local-dir:{export_encoder(config, weights, tmp_path / 'out')}", pretrained=True)
    prefix = "encoder." if spec is TINY_VIT else "encoder.backbone."
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[prefix + name]), name


COMPACT_SWIN = replace(TINY_SWIN, window=4, reads="visible")


@pytest.mark.parametrize("secondary", [0.0, 0.25])
def test_swin_on_the_compact_grid(secondary, tmp_path):
    """Tokens are timm's for the visible patches side by side; the model trains; its export takes whole images."""
    import timm

    torch.manual_seed(0)
    masking, loss = UniformMasking(secondary), MaskedL1()
    parts = dict(masking=masking, decoder=TransformerDecoder(32, 2, 4), target=Pixels(), loss=loss)
    config = Config(encoder=COMPACT_SWIN, data=Data(crop=CenterCrop(), size=(128, 192)), **parts)
    mim = randomized(build(config))
    assert (mim.encoder.grid, mim.encoder.patch_size, mim.encoder.merge) == ((8, 12), 16, 2)
    images, mask = torch.randint(0, 256, (2, 128, 192, 3), dtype=torch.uint8), mim.mask(torch.arange(2))
    latent = mim.encoder(images, mask)

    compact = take(patchify(mim.objective.normalize(images), 16), mask.ids_keep)
    compact = unpatchify(compact, 16, (4, 6)).permute(0, 3, 1, 2)
    export = timm_encoder(COMPACT_SWIN, (128, 192))
    args = export["model_args"] | {"dynamic_img_size": False}
    model = timm.create_model(export["architecture"], num_classes=0, **args).eval()
    model.load_state_dict(mim.encoder.backbone.state_dict(), strict=True)
    if secondary:
        replaced = mask.secondary.view(2, 4, 6).repeat_interleave(4, 1).repeat_interleave(4, 2)[..., None]
        token = mim.encoder.token.mask_token[0]
        model.patch_embed.register_forward_hook(lambda module, args, x: torch.where(replaced, token, x))
    expected = model.forward_features(compact).flatten(1, 2)
    torch.testing.assert_close(latent, expected, rtol=0, atol=1e-4)

    mim(images, torch.arange(2)).backward()
    assert all(p.grad.abs().max() > 0 for p in mim.parameters() if p.requires_grad)
    assert sum("mask_token" in n for n, _ in mim.encoder.named_parameters()) == (secondary > 0)
    folder = export_encoder(config, mim.state_dict(), tmp_path / "out")
    exported = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert exported.forward_features(torch.randn(1, 3, 256, 128)).shape == (1, 8, 4, 128)
