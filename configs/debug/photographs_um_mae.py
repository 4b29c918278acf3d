"""A small UM-MAE, a Swin of four stages, on a few hundred photographs: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_um_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.encoders.um_swin import UMSwin
from fastmim.masking import UniformMasking

mae = load("photographs_mae.py")
config = replace(
    mae,
    masking=UniformMasking(secondary=0.25),
    encoder=UMSwin(embed_dim=32, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window=8, posmlp_dim=8),
    data=replace(mae.data, size=(64, 64)),
    run=replace(mae.run, dir="runs/photographs_um_mae"),
)
