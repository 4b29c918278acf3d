"""A small PixMIM on a few hundred photographs, to see it learn more than a blur.

    deepspeed fastmim/train.py configs/debug/photographs_pixmim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import LowPass, SimpleResizedCrop, change, load

mae = load("photographs_mae.py")
config = change(
    mae,
    target=LowPass(radius=12),  # of 64 px, what 40 is of 224 px
    data=dict(crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
)
