"""PixMIM on ConvMAE-B, 224 px, 1600 epochs.   arXiv:2303.02416.

The paper reports this row, but no configuration was released. ConvMAE's recipe, with the two changes that PixMIM makes
to MAE.

Published: unknown.
"""

from fastmim.recipe import LowPass, SimpleResizedCrop, change, load

base = load("../../convmae/pretrain/convmae_base_224_1600ep.py")
config = change(
    base,
    target=LowPass(radius=40),
    data=dict(crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=dict(dir="runs/pixmim_convmae_base_1600ep"),
)
