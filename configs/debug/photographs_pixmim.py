"""A small PixMIM on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_pixmim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import SimpleResizedCrop
from fastmim.model.targets import LowPass

mae = load("photographs_mae.py")
config = replace(
    mae,
    target=LowPass(radius=12),  # what 40 is at 224 px
    data=replace(mae.data, crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=replace(mae.run, dir="runs/photographs_pixmim"),
)
