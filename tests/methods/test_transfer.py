"""Fine-tuning and probing: layers, norms, weights of other sizes, samples, statistics, optimizers."""

import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from fastmim.config.base import Experiment, ImageData, Optim
from fastmim.config.classify import Augment, Finetune, Head, LabelledData, Probe
from fastmim.config.json_form import to_json
from fastmim.convert.position_tables import resize_position_embedding, resize_relative_bias
from fastmim.data.augment import Augmenter, color_jitter, rand_augment
from fastmim.data.crops import CenterCrop, RandomResizedCrop
from fastmim.data.sampler import Sampler
from fastmim.engine.optim import parameter_groups, stage0_optimizer
from fastmim.engine.stage0 import Sgd
from fastmim.export.load import from_run
from fastmim.export.model_outline import check_fits
from fastmim.export.timm_format import write_timm
from fastmim.model import build as pretraining
from fastmim.model import encoders
from fastmim.model.classifier import BatchAugment, LinearProbe, pooling, recalibrate
from fastmim.model.encoders import BEiT, ConvNeXt, ResNet, Swin, ViT
from fastmim.model.masking import RandomMasking
from fastmim.parts import Encoder, ImageSpec
from fastmim.run import checkpoint
from fastmim.samples import sample_id, sample_index
from fastmim.tasks.classify import build_classifier
from fastmim.tasks.initial_encoder import build_encoder, load_encoder
from tests.methods.test_frameworks import config_of
from tests.methods.tiny import ENCODERS

LABELS = torch.arange(20) % 4
KINDS = [kind for kind in (getattr(encoders, name) for name in encoders.__all__) if issubclass(kind, Encoder)]
# Weight decay and clipping of the recipe are off, so that only one factor matters.
PLAIN = Augment(rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, smoothing=0.0)


def data(side=64, **fields):
    return LabelledData(crop=RandomResizedCrop(), size=(side, side), **fields)


def small(kind, **fields):
    return kind(**ENCODERS[kind.__name__] | fields)


def classifier(kind, side=64, head=None, **fields):
    config = Finetune(encoder=small(kind, **fields), data=data(side), head=head or Head(), augment=PLAIN)
    return build_classifier(config, 4, LABELS)


# Methods sheets, layer ids of fine-tuning. Depths here: pyramids 1, 1, 2, 1; ViTs 2; ConvMAE's transformer 2.
LAYERS = {
    "ViT": {"pos_embed": 0, "patch_embed.proj.weight": 0, "blocks.0.attn.qkv.weight": 1, "blocks.1.mlp.fc1.bias": 2},
    "BEiT": {
        "backbone.cls_token": 0, "backbone.blocks.1.attn.q_bias": 2,
        "backbone.rel_pos_bias.relative_position_bias_table": 3,
    },
    "Swin": {
        "backbone.patch_embed.proj.bias": 0, "backbone.layers.0.blocks.0.norm1.weight": 1,
        "backbone.layers.1.downsample.reduction.weight": 1, "backbone.layers.1.blocks.0.norm1.weight": 2,
        "backbone.layers.2.downsample.norm.weight": 2, "backbone.layers.2.blocks.1.mlp.fc1.weight": 4,
        "backbone.layers.3.downsample.norm.bias": 4, "backbone.layers.3.blocks.0.norm2.bias": 5,
        "backbone.norm.weight": 6,
    },
    "UMSwin": {
        "patch_embed.norm.weight": 0, "blocks.0.attn.qkv.weight": 1, "blocks.1.downsample.proj.weight": 2,
        "blocks.4.mlp.fc2.weight": 5,
    },
    "UMPVT": {"pos_embed": 0, "blocks.1.downsample.proj.bias": 2, "blocks.3.attn.sr.weight": 4},
    "ConvMAE": {
        "patch_embed4.weight": 0, "blocks1.0.conv1.weight": 0, "blocks2.0.attn.weight": 0, "pos_embed": 0,
        "blocks3.0.norm1.weight": 1, "blocks3.1.norm1.weight": 2,
    },
    "ResNet": {"backbone.conv1.weight": 0, "backbone.layer1.0.conv1.weight": 1, "backbone.layer3.1.bn1.weight": 4},
    "ConvNeXt": {
        "backbone.stem.0.weight": 0, "backbone.stages.0.blocks.0.gamma": 1, "backbone.stages.1.downsample.1.weight": 2,
        "backbone.stages.1.blocks.0.gamma": 2, "backbone.stages.2.downsample.0.weight": 3,
        "backbone.stages.2.blocks.1.gamma": 3, "backbone.stages.3.downsample.1.bias": 4,
        "backbone.stages.3.blocks.0.gamma": 4,
    },
}  # fmt: skip
COUNT = {"ViT": 3, "BEiT": 3, "Swin": 6, "UMSwin": 6, "UMPVT": 6, "ConvMAE": 3, "ResNet": 6, "ConvNeXt": 5}
NEW_NORM = Head(norm="new")
HEADS = {"ViT": NEW_NORM, "BEiT": NEW_NORM, "UMSwin": NEW_NORM, "UMPVT": NEW_NORM, "ConvMAE": NEW_NORM}
HEADS |= {"ConvNeXt": Head(norm="after")}


@pytest.mark.parametrize("kind", KINDS)
def test_layers_and_gradients(kind):
    """Layer decay gives every parameter the factor of its layer; all trained parameters have a gradient."""
    name, decay = kind.__name__, 0.7
    side = 128 if name in ("UMSwin", "UMPVT") else 64
    model = classifier(kind, side, HEADS.get(name))
    groups = parameter_groups(model, Optim(layer_decay=decay))
    scales = {n: group["lr_scale"] for group in groups for n in group["names"]}
    layers = {n: COUNT[name] - math.log(scale) / math.log(decay) for n, scale in scales.items()}
    expected = {f"encoder.{n}": layer for n, layer in LAYERS[name].items()}
    expected |= {n: COUNT[name] for n in layers if n.startswith(("fc.", "pool."))}
    assert {n: layers[n] for n in expected} == pytest.approx(expected, abs=1e-9)
    assert set(map(round, layers.values())) == set(range(COUNT[name] + 1))

    images = torch.randint(0, 256, (4, side, side, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(model.fc.weight)
    for n, p in model.named_parameters():
        if n.endswith("gamma"):
            nn.init.ones_(p)
    model.train()(images, torch.arange(4)).backward()
    assert not [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert "encoder.pos_embed" not in dict(model.named_parameters()) or model.encoder.pos_embed.requires_grad


def test_norm_after_the_pooling():
    """The norm moves after the mean with its weights, as in timm's ConvNeXt classifier."""
    encoder = build_encoder(small(ConvNeXt), data())
    images = torch.randn(2, 3, 64, 64)
    nn.init.normal_(encoder.backbone.head.norm.weight)
    expected = encoder.backbone.eval().forward_head(encoder.backbone.forward_features(images), pre_logits=True)
    pool = pooling(encoder.eval(), Head(norm="after"))
    torch.testing.assert_close(pool(encoder.features(images)), expected)


def test_heads_that_cannot_be():
    with pytest.raises(ValueError, match="ResNetEncoder has no last norm"):
        classifier(ResNet, head=Head(norm="after"))
    with pytest.raises(ValueError, match="SwinEncoder has no class token"):
        classifier(Swin, head=Head(pool="cls"))


def save_run(folder, encoder, spec):
    """Saves a pre-training run with the weights of an encoder of 64 x 64 pixels."""
    config = config_of(spec, (64, 64))
    mim = pretraining.build(config)
    mim.encoder.load_state_dict(encoder.state_dict())
    checkpoint.save(folder / "checkpoints", 1, {"model": mim.state_dict()}, {"config": to_json(config)}, 1)
    return folder


def test_weights_come_over_and_tables_are_resized(tmp_path):
    source = small(ViT, pos="learned").build(ImageSpec((64, 64), (0.5,) * 3, (0.5,) * 3), RandomMasking())
    run = save_run(tmp_path / "vit", source, small(ViT, pos="learned"))
    encoder = build_encoder(small(ViT, pos="learned"), data(96))
    load_encoder(encoder, run)
    assert torch.equal(encoder.blocks[1].mlp.fc1.weight, source.blocks[1].mlp.fc1.weight)
    assert torch.equal(encoder.pos_embed, resize_position_embedding(source.pos_embed, (6, 6), 1))

    source = build_encoder(small(BEiT, shared_bias=True), data(64))
    nn.init.normal_(source.backbone.rel_pos_bias.relative_position_bias_table)
    encoder = build_encoder(small(BEiT, shared_bias=False), data(96))
    load_encoder(encoder, save_run(tmp_path / "beit", source, small(BEiT, shared_bias=True)))
    table = resize_relative_bias(source.backbone.rel_pos_bias.relative_position_bias_table, (11, 11))
    for block in encoder.backbone.blocks:
        torch.testing.assert_close(block.attn.relative_position_bias_table, table)

    with pytest.raises(ValueError, match="has another encoder .*backbone.conv1.weight is not there"):
        load_encoder(build_encoder(small(ResNet), data()), run)
    with pytest.raises(ValueError, match="blocks.2.norm1.weight is not there"):
        load_encoder(build_encoder(small(ViT, depth=3), data()), run)


def test_a_run_of_a_task_that_a_user_adds_has_its_encoder_compared():
    @dataclass(frozen=True, kw_only=True)
    class Depth(Experiment):
        """Config of a task that fastmim does not have."""

    spec = small(ViT)
    config = Depth(encoder=spec, data=ImageData(CenterCrop(), size=(64, 64)))
    encoder = build_encoder(spec, config.data)
    weights = {f"encoder.{name}": tensor for name, tensor in encoder.state_dict().items()} | {"head": torch.zeros(3)}
    check_fits(config, {"model": weights})
    with pytest.raises(ValueError, match=r"model.safetensors: encoder\..*: expected"):
        check_fits(replace(config, encoder=small(ViT, embed_dim=64)), {"model": weights})


def test_an_exported_encoder_is_one_to_start_from(tmp_path):
    from safetensors.torch import save_file

    source = build_encoder(small(Swin), data())
    (tmp_path / "export").mkdir()
    state = {n: t.contiguous() for n, t in source.backbone.state_dict().items()}
    save_file(state, tmp_path / "export/model.safetensors")
    encoder = build_encoder(small(Swin), data())
    load_encoder(encoder, tmp_path / "export")
    assert all(torch.equal(t, encoder.backbone.state_dict()[n]) for n, t in state.items())


@pytest.mark.parametrize("kind", [ViT, BEiT, Swin, ResNet, ConvNeXt])
def test_an_export_of_every_kind_is_one_to_start_from(kind, tmp_path):
    """Weights come over also if timm names the last norm differently."""
    config = config_of(small(kind), (64, 64))
    source = from_run(config, pretraining.build(config).state_dict())
    write_timm(source, tmp_path)
    encoder = build_encoder(small(kind), data())
    load_encoder(encoder, tmp_path)
    expected = source.model.encoder.state_dict()
    assert all(torch.equal(t, expected[n]) for n, t in encoder.state_dict().items() if "mask_token" not in n)


def drawn(changes, image):
    for change in changes:
        image = change(image)
    return np.asarray(image)


@pytest.mark.parametrize("draw", ["rand_augment", "color_jitter"])
def test_changes_are_of_the_sample_alone(draw):
    """Changes depend on the sample id only; other repeats and epochs are changed differently."""
    draw = rand_augment("rand-m9-n3-mstd0.5-inc1", data()) if draw == "rand_augment" else color_jitter(0.4)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    ids = sample_id(torch.arange(20), 3)
    one = [drawn(changes, image) for changes in Augmenter(draw, 5)(ids)]
    torch.rand(3)
    other = [drawn(changes, image) for changes in Augmenter(draw, 5)(ids.flip(0))][::-1]
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    again = [drawn(changes, image) for changes in Augmenter(draw, 5)(sample_id(torch.arange(20), 3, 1))]
    assert sum(np.array_equal(a, b) for a, b in zip(one, again, strict=True)) < 10
    state = torch.get_rng_state()
    Augmenter(draw, 5)(ids)
    assert torch.equal(state, torch.get_rng_state())


def test_every_operation_runs():
    """Covers the largest magnitude, at which timm keeps 0 bits of a colour."""
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for changes in Augmenter(rand_augment("rand-m10-n6-p1.0-inc1", data(32)), 0)(torch.arange(100)):
        assert drawn(changes, image).shape == (32, 32, 3)


def test_a_batch_is_mixed_from_the_seed_alone():
    batch = BatchAugment(Augment(erase=0.5), classes=4)
    pixels, found = torch.randn(8, 3, 16, 16), []
    for _ in range(2):
        torch.manual_seed(3)
        found.append(batch(pixels.clone(), LABELS[:8]))
        np.random.rand(5)
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert not torch.equal(found[0][0], pixels)
    torch.testing.assert_close(found[0][1].sum(dim=1), torch.ones(8))


def test_repeats_that_stay_together():
    sampler = Sampler(10, seed=1, repeats=3, together=True)
    index = sample_index(sampler.ids(0, 60)).view(2, 10, 3)
    assert (index == index[..., :1]).all() and not torch.equal(index[0], index[1])
    assert sorted(index[0, :, 0].tolist()) == list(range(10)) and len(sampler.ids(0, 60).unique()) == 60
    assert torch.equal(sample_index(Sampler(10, seed=1).ids(0, 10)), index[0, :, 0])


def test_batch_norms_are_recalibrated():
    """Statistics are the mean over equal batches; nothing else changes, and no path is dropped."""
    torch.manual_seed(0)
    encoder = build_encoder(small(ResNet, drop_path=0.5), data(32))
    first = encoder.backbone.bn1
    first.running_mean.fill_(9.0)
    batches = [torch.randn(6, 3, 32, 32) for _ in range(3)]
    assert recalibrate(encoder.train(), batches) > 5 and not encoder.training
    with torch.no_grad():
        expected = torch.cat([encoder.backbone.conv1(x) for x in batches])
    torch.testing.assert_close(first.running_mean, expected.mean(dim=(0, 2, 3)), atol=1e-6, rtol=1e-5)
    assert first.momentum == 0.1
    assert recalibrate(build_encoder(small(ViT), data(32)), iter([])) == 0


def test_a_probe_trains_its_linear_layer_only():
    probe = build_classifier(Probe(encoder=small(ResNet, drop_path=0.5), data=data()), 4, LABELS)
    assert isinstance(probe, LinearProbe) and not probe.encoder.training and probe.norm.training
    assert [n for n, p in probe.named_parameters() if p.requires_grad] == ["fc.weight", "fc.bias"]
    before = {n: b.clone() for n, b in probe.encoder.named_buffers()}
    images = torch.randint(0, 256, (8, 64, 64, 3), dtype=torch.uint8)
    probe(images, torch.arange(8)).backward()
    assert all(torch.equal(b, before[n]) for n, b in probe.encoder.named_buffers())
    assert (probe.norm.eps, probe.norm.affine) == (1e-6, False) and probe.fc.weight.grad.any()


def one_step(optimizer, lr=0.1):
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()


def pair(seed=0):
    torch.manual_seed(seed)
    linear = nn.Linear(3, 2)
    gradients = [torch.randn_like(p) for p in linear.parameters()]
    for p, g in zip(linear.parameters(), gradients, strict=True):
        p.grad = g.clone()
    return linear, gradients


def test_lars_is_the_probe_s():
    """LARS is MAE's: g <- g * 0.001 |w| / |g| if w has several dimensions, v <- 0.9 v + g, w <- w - lr v."""
    from fastmim.engine.layerwise import Lars

    linear, (gw, gb) = pair()
    w, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    spec = Optim(algorithm="lars", weight_decay=0.0, momentum=0.9)
    optimizer = stage0_optimizer(parameter_groups(linear, spec), spec, loss_scaling=False)
    assert isinstance(optimizer, Lars)
    vw, vb = torch.zeros_like(w), torch.zeros_like(b)
    for _ in range(3):
        vw = 0.9 * vw + gw * (0.001 * w.norm() / gw.norm())
        vb = 0.9 * vb + gb
        w, b = w - 0.1 * vw, b - 0.1 * vb
        linear.weight.grad, linear.bias.grad = gw.clone(), gb.clone()
        one_step(optimizer)
    torch.testing.assert_close(linear.weight.detach(), w)
    torch.testing.assert_close(linear.bias.detach(), b)
    assert all(int(step) == 3 for step in optimizer.counters())


def test_sgd_is_that_of_detectors():
    """SGD: v <- 0.9 v + g / max(1, |g| / clip) + wd * w, w <- w - lr v; biases do not decay; it can skip updates."""
    linear, (gw, gb) = pair()
    w, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    spec = Optim(algorithm="sgd", weight_decay=0.1, momentum=0.9, clip=1.0)
    optimizer = stage0_optimizer(parameter_groups(linear, spec), spec, loss_scaling=False)
    assert isinstance(optimizer, Sgd)
    norm = torch.cat([gw.flatten(), gb]).norm()
    vw, vb = torch.zeros_like(w), torch.zeros_like(b)
    for step in range(4):
        linear.weight.grad, linear.bias.grad = gw.clone(), gb.clone()
        if step == 1:
            linear.bias.grad[0] = torch.nan
        else:
            vw, vb = 0.9 * vw + gw / norm + 0.1 * w, 0.9 * vb + gb / norm
            w, b = w - 0.1 * vw, b - 0.1 * vb
        one_step(optimizer)
    torch.testing.assert_close(linear.weight.detach(), w, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(linear.bias.detach(), b, rtol=1e-5, atol=1e-6)
    assert all(int(step) == 3 for step in optimizer.counters())


def test_lamb_is_rsb_s():
    """LAMB clips to a global norm of 1 and scales Adam's step plus wd * w by |w| / |step| if w decays."""
    from fastmim.engine.layerwise import Lamb

    linear, (gw, gb) = pair()
    w, b = linear.weight.detach().clone(), linear.bias.detach().clone()
    spec = Optim(algorithm="lamb", weight_decay=0.02, betas=(0.9, 0.999), eps=1e-6, clip=1.0)
    optimizer = stage0_optimizer(parameter_groups(linear, spec), spec, loss_scaling=False)
    assert isinstance(optimizer, Lamb)
    norm = torch.cat([gw.flatten(), gb]).norm()
    gw, gb = gw / norm, gb / norm
    step_w, step_b = gw / (gw.abs() + 1e-6) + 0.02 * w, gb / (gb.abs() + 1e-6)
    one_step(optimizer)
    torch.testing.assert_close(
        linear.weight.detach(), w - 0.1 * step_w * w.norm() / step_w.norm(), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(linear.bias.detach(), b - 0.1 * step_b, rtol=1e-4, atol=1e-5)
    assert optimizer.grad_norm == pytest.approx(float(norm))

    before = linear.weight.detach().clone()
    linear.weight.grad, linear.bias.grad = torch.full_like(gw, torch.inf), gb.clone()
    one_step(optimizer)
    assert optimizer.found_inf and torch.equal(linear.weight, before) and all(int(s) == 1 for s in optimizer.counters())
