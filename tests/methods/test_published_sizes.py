"""The published ways at their published sizes: names, shapes and dtypes of the official files, and multiply-adds."""

import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bench.published import a2mim, simmim, um_mae, um_pyramids
from bench.published.convmae import ConvMaskedAutoencoder
from bench.published.lsmae import LongSequenceMaskedAutoencoder
from bench.published.mae import MaskedAutoencoder
from bench.published.pixmim import PixMIM
from tests.methods.tiny import ROOT

UM_SWIN_L = um_pyramids.Swin(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), posmlp_dim=64)
MODELS = {
    "mae_vit_base_patch16": MaskedAutoencoder,
    "mmselfsup_pixmim_vit_base": PixMIM,
    "a2mim_r50": lambda: a2mim.A2MIM(a2mim.ResNet(), a2mim.Neck(2048, 32), a2mim.A2MIMHead()),
    "simmim_swin_base_192_window6": lambda: simmim.SimMIM(simmim.SwinTransformer()),
    "simmim_vit_base_224": lambda: simmim.SimMIM(simmim.VisionTransformer()),
    "ummae_swin_tiny_256": lambda: um_mae.UniformMAE(um_pyramids.Swin()),
    "ummae_swin_large_256": lambda: um_mae.UniformMAE(UM_SWIN_L, decoder_depth=8),
    "ummae_pvt_small_256": lambda: um_mae.UniformMAE(um_pyramids.PVT()),
    "ummae_vit_base_patch16_dec512d2b": um_mae.UniformViT,
    "simmim_swin_tiny_256_ummae_repo": lambda: um_mae.SimMIM(um_pyramids.Swin(window=16)),
    "simmim_pvt_small_256_ummae_repo": lambda: um_mae.SimMIM(um_pyramids.PVT(reductions=(8, 4, 2, 1))),
}


@pytest.mark.parametrize("name", MODELS)
def test_keys_shapes_and_dtypes_are_the_official_ones(name):
    entries = json.loads((ROOT / f"tests/golden/state_dict_keys/{name}.json").read_text())["entries"]
    with torch.device("meta"):
        model = MODELS[name]()
    found = {k: (list(v.shape), str(v.dtype).removeprefix("torch.")) for k, v in model.state_dict().items()}
    assert found == {e["key"]: (e["shape"], e["dtype"]) for e in entries}
    trained = {k for k, p in model.named_parameters() if p.requires_grad}
    assert trained == {e["key"] for e in entries if e["kind"] == "param"}


LARGE = dict(embed_dim=1024, depth=24, num_heads=16, decoder_embed_dim=512, decoder_num_heads=16)


def noise():
    return (torch.rand(1, 196),)


def orders():
    ids = torch.zeros(1, 784, dtype=torch.int64)
    return ids[:, :196], ids


@pytest.mark.parametrize(
    ("build", "side", "hide", "billions"),
    [
        (ConvMaskedAutoencoder, 224, noise, 17.2),
        (PixMIM, 224, noise, 9.78),
        (LongSequenceMaskedAutoencoder, 448, orders, 33.1),
        (lambda: LongSequenceMaskedAutoencoder(**LARGE), 448, orders, 87.2),
    ],
    ids=["ConvMAE", "PixMIM", "LSMAE base", "LSMAE large"],
)
def test_multiplications_are_those_of_the_sheets(build, side, hide, billions):
    """Returns the multiply-adds of the forward pass of one image."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build()(torch.rand(1, 3, side, side), *hide())
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.01)
