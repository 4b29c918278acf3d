"""PixMIM on long-sequence MAE, ViT-B/16, 448 px, 800 epochs.   arXiv:2303.02416.

The paper reports this row, but no configuration was released. Long-sequence MAE's recipe, with the two changes that
PixMIM makes to MAE. The radius at 448 px is not known: 40 cycles per image keep as much of the scene as at 224 px, and
80 keep as much per pixel.

Published: unknown.
"""

from fastmim.recipe import LowPass, SimpleResizedCrop, change, load

base = load("../../lsmae/pretrain/vit_base_patch16_448_800ep.py")
config = change(
    base,
    target=LowPass(radius=40),
    data=dict(crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=dict(dir="runs/pixmim_lsmae_vit_base_800ep"),
)
