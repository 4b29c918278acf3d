"""A small MAE on pictures of shapes, a few minutes on two CPU cores: what shapes_segment_vit.py starts from.

    python -m tests.shapes data/shapes
    deepspeed fastmim/train.py configs/debug/shapes_mae.py

Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config import load

photographs = load("photographs_mae.py")
config = replace(
    photographs,
    data=replace(photographs.data, root="data/shapes/images/train", held_out=50),
    optim=replace(photographs.optim, warmup_epochs=5),
    train=replace(photographs.train, epochs=100, global_batch=128),
    run=replace(photographs.run, dir="runs/shapes_mae"),
)
