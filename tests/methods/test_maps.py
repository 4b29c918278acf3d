"""Maps of every encoder equal timm's intermediates, outputs caught by hooks, and `features`."""

import pytest
import torch

from fastmim.config.classify import LabelledData
from fastmim.data.crops import RandomResizedCrop
from fastmim.model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.tasks.initial_encoder import build_encoder
from fastmim.tokens import as_map
from tests.methods.tiny import ENCODERS

KINDS = (ViT, BEiT, Swin, UMSwin, UMPVT, ConvMAE, ResNet, ConvNeXt)
STRIDES = {ViT: (16,), BEiT: (16,), ConvMAE: (4, 8, 16)}


def build(kind, size=(128, 256), **fields):
    torch.manual_seed(0)
    data = LabelledData(crop=RandomResizedCrop(), size=size)
    encoder = build_encoder(kind(**ENCODERS[kind.__name__] | fields), data)
    with torch.no_grad():
        for p in encoder.parameters():  # norms and layer scales that are one or nothing at first
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    return encoder, torch.randn(2, 3, *size)


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    """Maps have the shapes of strides and widths, in both modes, for images that are not square."""
    encoder, images = build(kind)
    assert encoder.strides == STRIDES.get(kind, (4, 8, 16, 32)) and encoder.widths[-1] == encoder.embed_dim
    shapes = [(2, c, 128 // s, 256 // s) for c, s in zip(encoder.widths, encoder.strides, strict=True)]
    for mode in (False, True):
        assert [tuple(x.shape) for x in encoder.train(mode).maps(images)] == shapes


def hooked(encoder, blocks, images):
    """Returns the outputs of these modules in a pass of `features`."""
    found = []
    hooks = [block.register_forward_hook(lambda *args: found.append(args[2])) for block in blocks]
    encoder.features(images)
    for hook in hooks:
        hook.remove()
    return found


def intermediates(kind, encoder, images):
    """Returns the maps from timm, or from hooks in a pass of `features`."""
    if kind in (ViT, BEiT):
        return [as_map(encoder.features(images)[:, 1:], encoder.grid)]
    if kind is ConvMAE:
        ends = [encoder.blocks1[-1], encoder.blocks2[-1], encoder.blocks3[-1]]
        *first, tokens = hooked(encoder, ends, images)
        return [*(x[:, 0].permute(0, 3, 1, 2) for x in first), as_map(tokens, encoder.grid)]
    if kind in (UMSwin, UMPVT):
        ends = [encoder.blocks[sum(encoder.depths[: i + 1]) - 1] for i in range(4)]
        return [x.permute(0, 3, 1, 2) for x in hooked(encoder, ends, images)]
    return encoder.backbone.forward_intermediates(images, intermediates_only=True)[-4:]


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_maps_are_the_stages_outputs(kind):
    encoder, images = build(kind)
    encoder.eval()
    for ours, theirs in zip(encoder.maps(images), intermediates(kind, encoder, images), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_last_map_and_features(kind):
    """The last map equals `features`, except for a pyramid's last norm and ConvMAE's sum before the norm."""
    encoder, images = build(kind)
    encoder.eval()
    features, last = encoder.features(images)[:, encoder.num_prefix_tokens :], encoder.maps(images)[-1]
    tokens = last.flatten(2).transpose(1, 2)
    if kind in (Swin, ConvNeXt, UMSwin, UMPVT, ConvMAE):
        assert not torch.allclose(tokens, features)
        encoder.take_norm()
        features = encoder.features(images)
    assert torch.equal(tokens, features)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_and_recomputation(kind):
    """Every parameter that a map depends on has a gradient, with and without gradient checkpointing."""
    encoder, images = build(kind)
    encoder.take_norm()
    encoder.train()
    found = []
    for encoder.grad_checkpointing in (False, True):
        encoder.zero_grad()
        sum(x.square().mean() for x in encoder.maps(images)).backward()
        found.append({name: p.grad for name, p in encoder.named_parameters() if p.requires_grad})
    assert not [name for name, gradient in found[0].items() if gradient is None]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, msg=name)


@torch.no_grad()
def test_training_s_maps_are_evaluation_s():
    """Maps agree in training and evaluation; Swin uses another kernel in training, which rounds differently."""
    encoder, images = build(Swin)
    for trained, tested in zip(encoder.train().maps(images), encoder.eval().maps(images), strict=True):
        torch.testing.assert_close(trained, tested, atol=1e-5, rtol=1e-4)
