"""SimMIM and A2MIM's ViT: equal to the official outputs, to the published way, and to timm."""

import numpy as np
import pytest
import timm
import torch

from bench.published import a2mim_vit, simmim
from fastmim.decoders import LinearHead
from fastmim.encoders.beit import BEiT
from fastmim.encoders.swin import Swin
from fastmim.losses import MaskedL1
from fastmim.masking import BlockMasking, UniformMasking
from fastmim.mim import MIM
from fastmim.objective import Objective
from fastmim.targets import Pixels
from fastmim.tokens import Mask

IDENTITY = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
TINY_SWIN = Swin("swin_tiny_patch4_window7_224", 3, embed_dim=16, depths=(2, 2, 2, 1), num_heads=(1, 2, 4, 8))
TINY_BEIT = BEiT("beit_base_patch16_224", embed_dim=24, depth=3, num_heads=4, drop_path=0.0)
A2MIM = dict(absolute_pos=True, shared_bias=False, init="a2mim", fill="mean", token="add")


def mim_of(spec, size, statistics=IMAGENET, layout="channels_first"):
    encoder = spec.build(size, *statistics, BlockMasking())
    objective = Objective(Pixels(), MaskedL1(), encoder.patch_size, *statistics)
    return MIM(BlockMasking(), encoder, LinearHead(layout).build(encoder), objective, seed=0)


OURS_SWIN = Swin("swin_base_patch4_window7_224", 6)


@pytest.mark.parametrize(
    ("encoder", "size", "millions"),
    [
        (OURS_SWIN, 192, (86.725, 3.149)),
        (Swin("swin_large_patch4_window7_224", 12), 192, (195.160, 4.722)),
        (Swin("swin_tiny_patch4_window7_224", 6), 192, (27.513, 2.362)),
        (Swin("swin_tiny_patch4_window7_224", 7), 224, (27.519, 2.362)),
        (BEiT(), 224, (85.666, 0.591)),
        (BEiT(**A2MIM), 224, (85.914, 0.591)),  # 86.682 with a 1000-class head and no mask token
        (BEiT(**A2MIM, depth=8, num_heads=8, mlp_ratio=3.0), 224, (48.058, 0.591)),
        (BEiT("beit_large_patch16_224", **A2MIM), 224, (303.608, 0.787)),
    ],
)
def test_parameter_counts(encoder, size, millions):
    with torch.device("meta"):
        mim = mim_of(encoder, (size, size))
    counts = [sum(p.numel() for p in part.parameters()) / 1e6 for part in (mim.encoder, mim.decoder)]
    assert [round(count, 3) for count in counts] == list(millions)
