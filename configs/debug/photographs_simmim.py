"""A small SimMIM on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_simmim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.data.crops import RandomResizedCrop
from fastmim.decoders import LinearHead
from fastmim.encoders.beit import BEiT
from fastmim.losses import MaskedL1
from fastmim.masking import BlockMasking
from fastmim.targets import Pixels

mae = load("photographs_mae.py")
config = replace(
    mae,
    masking=BlockMasking(ratio=0.6, block=16),
    encoder=BEiT("beit_base_patch16_224", patch_size=8, depth=4, embed_dim=128, num_heads=4, drop_path=0.0),
    decoder=LinearHead(),
    target=Pixels(),
    loss=MaskedL1(),
    data=replace(mae.data, crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear")),
    optim=replace(mae.optim, betas=(0.9, 0.999), clip=5.0),
    train=replace(mae.train, epochs=60),
    run=replace(mae.run, dir="runs/photographs_simmim"),
)
