"""A small SimMIM on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_simmim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import RandomResizedCrop
from fastmim.model.decoders import LinearHead
from fastmim.model.losses import MaskedL1
from fastmim.model.masking import BlockMasking
from fastmim.model.targets import Pixels

mae = load("photographs_mae.py")
config = replace(
    mae,
    masking=BlockMasking(ratio=0.6, block=16),
    encoder=replace(mae.encoder, reads="all"),  # BEiT's tables of positions start at zero and take longer
    decoder=LinearHead(),
    target=Pixels(),
    loss=MaskedL1(),
    data=replace(mae.data, crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear")),
    optim=replace(mae.optim, betas=(0.9, 0.999), clip=5.0),
    train=replace(mae.train, epochs=120),
    run=replace(mae.run, dir="runs/photographs_simmim"),
)
