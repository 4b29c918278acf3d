"""Fine-tuning of SimMIM's Swin-B, windows of 6 at 192 px, 100 epochs.   arXiv:2111.09886; microsoft/SimMIM's configs.

The cosine is counted from the start, so the rate drops by a tenth when warm-up ends.

Published: 82.8 % (100 epochs of pre-training).
"""

from fastmim.recipe import Head, change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
row = load("../pretrain/swin_base_window6_192_100ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    data=dict(size=(192, 192)),
    head=Head(pool="mean", norm="before", init_std=0.02),
    optim=dict(
        blr=1.25e-3,
        lr_batch=512,
        cosine_from="start",
        warmup_epochs=20,
        warmup_lr=1e-6,
        no_decay=("relative_position_bias_table",),
        layer_decay=0.9,
        clip=5.0,
    ),
    train=dict(global_batch=2048),
    run=dict(dir="runs/simmim_swin_base_192_finetune", init=row.run.dir, evaluate_every=625),
)
