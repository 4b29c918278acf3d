"""Fine-tuning of A2MIM's ViT-B/16, 224 px, 100 epochs.   arXiv:2205.13943; recipe of openmixup.

For the SimMIM baseline, add --run.init runs/a2mim_simmim_vit_base_patch16_224_800ep.

Published: 84.2 %; 83.8 % of its SimMIM.
"""

from fastmim.recipe import EMA, change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
row = load("../pretrain/vit_base_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    head=dict(init_std=0.01),
    ema=EMA(decay=0.99996, warmup_epochs=20),
    optim=dict(
        blr=5e-3,
        lr_batch=512,
        warmup_epochs=20,
        no_decay=("cls_token", "pos_embed", "relative_position_bias_table"),
        clip=5.0,
    ),
    run=dict(dir="runs/a2mim_vit_base_finetune", init=row.run.dir),
)
