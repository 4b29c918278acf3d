"""A small MAE on a few hundred ImageNet photographs, 64-px crops: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load

demo = load("demo.py")
config = replace(
    demo,
    encoder=replace(demo.encoder, depth=4, embed_dim=128, num_heads=4),
    decoder=replace(demo.decoder, dim=64, num_heads=2),
    data=replace(demo.data, held_out=100),
    optim=replace(demo.optim, warmup_epochs=10),
    train=replace(demo.train, epochs=240),
    run=replace(demo.run, dir="runs/photographs_mae", save_every=500, log_every=50, evaluate_every=250),
)
