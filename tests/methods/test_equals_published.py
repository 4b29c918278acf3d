"""Every small method equals its published code: hidden patches, loss, and every gradient.

Convolutional networks need float64 for this comparison, and are in test_a2mim.py.
"""

from dataclasses import replace

import pytest
import torch

from bench import published
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders import ConvNeXt, ResNet
from fastmim.model.losses import FocalFrequency, MaskedL1, WithFourier
from fastmim.model.masking import UniformMasking
from fastmim.model.targets import LowPass, Pixels
from fastmim.tasks.pretrain import build
from fastmim.tokens import take
from tests.methods.tiny import methods, traits
from tests.sweep import covering

METHODS = {name: config for name, config in methods().items() if not isinstance(config.encoder, (ResNet, ConvNeXt))}


def varied(name, **parts):
    """The small config of a row with other parts; `encoder` and `data` are fields of these parts."""
    config = methods()[name]
    nested = {part: replace(getattr(config, part), **parts.pop(part)) for part in ("encoder", "data") if part in parts}
    return replace(config, **nested, **parts)


MAE, LSMAE = "mae/pretrain/vit_base_patch16_224_1600ep", "lsmae/pretrain/vit_base_patch16_448_1600ep"
SWIN, BEIT = "simmim/pretrain/swin_base_window6_192_100ep", "simmim/pretrain/vit_base_patch16_224_800ep"
A2MIM, BASELINE = (f"a2mim/pretrain/{name}vit_base_patch16_224_800ep" for name in ("", "simmim_"))
UM_SWIN, UM_PVT = (f"um_mae/pretrain/{name}_256_200ep" for name in ("swin_tiny", "pvt_small"))
SHIFTED = {"depths": (2, 2, 2, 1), "window": 8, "posmlp_dim": 8}
DEEP_SWIN = {"depths": (2, 2, 2, 1), "window": 3}
RECTANGLE = {"size": (96, 64)}
UM_VIT = "um_mae/pretrain/vit_base_patch16_224_200ep"
OTHERS = {
    "MAE on pixels": varied(MAE, target=Pixels()),
    "MAE with more decoder blocks": varied(MAE, decoder=TransformerDecoder(dim=32, depth=3, num_heads=4)),
    "LSMAE's frequencies": varied(LSMAE, target=LowPass(10)),
    "PixMIM": varied("pixmim/pretrain/vit_base_patch16_224_300ep", target=LowPass(12)),
    "ConvMAE with more blocks": varied("convmae/pretrain/convmae_base_224_1600ep", encoder={"depths": (2, 1, 2)}),
    "shifted windows": varied(SWIN, encoder=DEEP_SWIN),
    "SimMIM's ViT": varied(BEIT, encoder={"depth": 3, "drop_path": 0.0}, data=RECTANGLE),
    "A2MIM": varied(A2MIM, loss=WithFourier(fourier=FocalFrequency(batch=4)), data=RECTANGLE),
    "A2MIM's token later": varied(
        A2MIM, encoder={"token_layer": 2, "mlp_ratio": 3.0, "depth": 3}, loss=MaskedL1(), data=RECTANGLE
    ),
    "A2MIM's gate": varied(A2MIM, encoder={"token": "gated", "token_layer": 1}, loss=MaskedL1(), data=RECTANGLE),
    "A2MIM's baseline": varied(BASELINE, data=RECTANGLE),
    "UM-MAE's shifted windows": varied(UM_SWIN, encoder=SHIFTED),
    "UM-MAE's Swin, nothing replaced": varied(UM_SWIN, encoder=SHIFTED, masking=UniformMasking(secondary=0.0)),
    "UM-MAE's PVT, nothing replaced": varied(UM_PVT, masking=UniformMasking(secondary=0.0)),
    "UM-MAE's ViT, nothing replaced": varied(UM_VIT, masking=UniformMasking(secondary=0.0)),
    "UM-MAE's SimMIM, shifted windows": varied("um_mae/pretrain/swin_tiny_256_simmim_200ep", encoder=SHIFTED),
}


def prediction_of(mim, mask, size):
    """Returns images and our prediction for them, of which no residual is so small that its sign is rounding."""
    generator = torch.Generator().manual_seed(0)
    while True:
        images = torch.randint(0, 256, (4, *size, 3), dtype=torch.uint8, generator=generator)
        torch.manual_seed(1)  # of the paths that are dropped
        prediction = mim.predict(images, mask)
        targets = take(mim.objective.targets(images), mask.ids_hidden)
        if len(mask.ids_hidden[0]) != prediction.shape[1] or (prediction - targets).abs().min() > 3e-6:
            return images, prediction


def check(config, checkpointing):
    torch.manual_seed(0)
    ours = build(config)
    theirs, inputs = published.build(config)
    ours.encoder.grad_checkpointing = checkpointing
    trained = [p for p in ours.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in trained:
            p += 0.1 * torch.randn_like(p)
    published.copy_weights(theirs, ours)
    mask = ours.mask(torch.arange(4))
    images, prediction = prediction_of(ours, mask, config.data.size)
    value = ours.objective(prediction, images, mask)
    torch.manual_seed(1)
    expected, _, hidden = theirs(ours.objective.normalize(images).permute(0, 3, 1, 2), *inputs(mask))
    assert torch.equal(hidden.flatten(1).bool(), mask.mask)
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0)
    value.backward()
    expected.backward()
    with torch.no_grad():  # gradients come over as the weights do
        for p in trained:
            p.copy_(p.grad)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    published.copy_weights(theirs, ours)
    for name, p in theirs.named_parameters():
        if p.requires_grad:
            rounding = 1e-7 if name.endswith("posmlp.2.bias") else 1e-9  # whose gradient is zero in theory
            atol = 1e-4 * gradients[name].abs().max().item() + rounding
            torch.testing.assert_close(p, gradients[name], rtol=0, atol=atol, msg=name)


@pytest.mark.parametrize("name", covering(zip(METHODS), lambda name: traits(METHODS[name])))
def test_methods(name):
    check(METHODS[name], checkpointing=False)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("name", OTHERS)
def test_other_settings(name, checkpointing):
    check(OTHERS[name], checkpointing)
