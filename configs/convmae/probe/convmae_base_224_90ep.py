"""Linear probe of ConvMAE-B, 224 px, 90 epochs.   arXiv:2205.03892; the official main_linprobe.py with --global_pool.

Published: 70.9 %.
"""

from fastmim.recipe import change, load

base = load("../../mae/probe/vit_base_patch16_224_90ep.py")
row = load("../pretrain/convmae_base_224_1600ep.py")
config = change(
    base,
    encoder=row.encoder,
    head=dict(pool="mean", norm="new"),
    train=dict(global_batch=4096),
    run=dict(dir="runs/convmae_base_probe", init=row.run.dir, evaluate_every=312),
)
