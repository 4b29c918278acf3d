"""A small A2MIM on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_a2mim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.losses import FocalFrequency, MaskedL1, WithFourier

simmim = load("photographs_simmim.py")
config = replace(
    simmim,
    encoder=replace(simmim.encoder, fill="mean", token="add"),
    decoder=replace(simmim.decoder, init="trunc_normal"),
    loss=WithFourier(spatial=MaskedL1(), fourier=FocalFrequency(batch=64), weight=0.1),
    run=replace(simmim.run, dir="runs/photographs_a2mim"),
)
