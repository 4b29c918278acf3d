"""PixMIM on long-sequence MAE, ViT-B/16, 448 px, 800 epochs.   arXiv:2303.02416 reports it, but released no
configuration of it.

Long-sequence MAE's recipe, with the two changes that PixMIM makes to MAE. The radius at 448 px is not known: 40 cycles
per image keep as much of the scene as at 224 px, 80 as much per pixel.

Published: unknown.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import SimpleResizedCrop
from fastmim.model.targets import LowPass

base = load("../../lsmae/pretrain/vit_base_patch16_448_800ep.py")
config = replace(
    base,
    target=LowPass(radius=40),
    data=replace(base.data, crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=replace(base.run, dir="runs/pixmim_lsmae_vit_base_800ep"),
)
