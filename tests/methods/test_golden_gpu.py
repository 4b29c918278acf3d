"""Outputs of the official code in float32 on a GPU (tests/golden). Run by `python -m bench gpu_check`."""

import pytest
import torch

from fastmim.convert.mae import FORMATS
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders.vit import ViT
from fastmim.model.losses import MaskedL2
from fastmim.model.masking import RandomMasking
from fastmim.model.mim import MIM
from fastmim.model.objective import Objective
from fastmim.model.targets import NormalizedPatches
from fastmim.parts import ImageSpec
from fastmim.tokens import Mask
from tests.methods import test_convmae, test_simmim

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]
DEVICE = "cuda"
IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


@pytest.fixture(autouse=True)
def full_precision():
    """Runs convolutions in float32, not in TF32."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def mae(data):
    encoder = ViT("vit_base_patch16_224", embed_dim=64, depth=2, num_heads=4).build(
        ImageSpec((96, 96), *IDENTITY), RandomMasking()
    )
    decoder = TransformerDecoder(dim=32, depth=1, num_heads=4).build(encoder)
    objective = Objective(NormalizedPatches(), MaskedL2(), 16, ImageSpec((96, 96), *IDENTITY))
    mim = MIM(RandomMasking(0.75), encoder, decoder, objective, seed=0)
    mim.load_state_dict(FORMATS[0].to_ours({k[3:]: v for k, v in data.items() if k.startswith("sd/")})[0])
    return mim, Mask(data["noise"].argsort(dim=1), 9, (6, 6)), data["loss_normpix"][0]


def convmae(data):
    mean, std = test_convmae.MEAN, test_convmae.STD
    encoder = test_convmae.SPEC.build(ImageSpec((224, 224), mean, std), RandomMasking())
    decoder = TransformerDecoder(dim=16, depth=1, num_heads=2).build(encoder)
    mim = MIM(
        RandomMasking(),
        encoder,
        decoder,
        Objective(NormalizedPatches(), MaskedL2(), 16, ImageSpec((224, 224), mean, std)),
        seed=0,
    )
    mim.load_state_dict({k: data[f"sd/{test_convmae.official_name(k)}"] for k in mim.state_dict()})
    return mim, Mask(data["noise"].argsort(dim=1), 49, (14, 14)), data["loss_normpix"][0]


def simmim(data):
    mim = test_simmim.mim_of(test_simmim.TINY_SWIN, (96, 96), IDENTITY)
    state, _ = test_simmim.SWIN_NAMES.to_ours({k[3:]: v for k, v in data.items() if k.startswith("sd/")})
    mim.load_state_dict(state)
    return mim, Mask(data["mask"][:, ::8, ::8].flatten(1).argsort(dim=1, stable=True), 3, (3, 3)), data["loss"][0]


@pytest.mark.parametrize(
    ("method", "file"),
    [(mae, "forward_mae_tiny"), (convmae, "forward_convmae_tiny"), (simmim, "forward_simmim_swin_ms_tiny")],
    ids=["mae", "convmae", "simmim"],
)
def test_official_loss(golden, method, file):
    data = golden(file)
    mim, mask, expected = method(data)
    mim.to(DEVICE)
    images = data["img"].float().permute(0, 2, 3, 1).contiguous().to(DEVICE)
    mask = Mask(mask.ids.to(DEVICE), mask.num_keep, mask.grid)
    loss = mim.objective(mim.predict(images, mask), images, mask)
    torch.testing.assert_close(loss.cpu(), expected, rtol=1e-4, atol=0)
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in mim.parameters() if p.grad is not None)
