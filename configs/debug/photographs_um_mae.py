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
    encoder=UMSwin(embed_dim=48, depths=(2, 2, 2, 2), num_heads=(1, 2, 4, 8), window=16, posmlp_dim=16),
    decoder=replace(mae.decoder, dim=128, num_heads=4),
    data=replace(mae.data, size=(128, 128)),  # patches are of 16 pixels
    train=replace(mae.train, epochs=70),
    run=replace(mae.run, dir="runs/photographs_um_mae"),
)
