"""PixMIM on ConvMAE-B, 224 px, 1600 epochs.   arXiv:2303.02416 reports it, but released no configuration of it.

ConvMAE's recipe, with the two changes that PixMIM makes to MAE.

Published: unknown.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import SimpleResizedCrop
from fastmim.model.targets import LowPass

base = load("../../convmae/pretrain/convmae_base_224_1600ep.py")
config = replace(
    base,
    target=LowPass(radius=40),
    data=replace(base.data, crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=replace(base.run, dir="runs/pixmim_convmae_base_1600ep"),
)
