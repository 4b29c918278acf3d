"""Fine-tuning of ConvMAE-B, 224 px, 100 epochs.   arXiv:2205.03892; recipe of the official FINETUNE.md.

Published: 85.0 %.
"""

from fastmim.recipe import change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
row = load("../pretrain/convmae_base_224_1600ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    optim=dict(no_decay=("pos_embed",)),
    run=dict(dir="runs/convmae_base_finetune", init=row.run.dir),
)
