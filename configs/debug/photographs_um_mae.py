"""A small UM-MAE on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_um_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.masking import UniformMasking

mae = load("photographs_mae.py")
config = replace(
    mae,
    masking=UniformMasking(secondary=0.25),
    run=replace(mae.run, dir="runs/photographs_um_mae"),
)
