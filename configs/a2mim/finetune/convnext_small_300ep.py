"""Fine-tuning of A2MIM's ConvNeXt-S, 224 px, 300 epochs.   arXiv:2205.13943; recipe of openmixup.

The readme calls the recipe RSB A2, but the official configs have these settings. The norms of stem and downsampling
decay, because an official regular expression misses them. For the SimMIM baseline, add --run.init
runs/a2mim_simmim_convnext_small_300ep.

Published: 83.7 %; 83.2 % of its SimMIM.
"""

from fastmim.recipe import EMA, Head, change, load

base = load("../../mae/finetune/vit_base_patch16_224_100ep.py")
row = load("../pretrain/convnext_small_300ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.4),
    head=Head(pool="mean", norm="after", init_std=0.02),
    ema=EMA(decay=0.9999, warmup_epochs=20),
    optim=dict(
        blr=4e-3,
        lr_batch=4096,
        cosine_from="start",
        warmup_lr=4e-8,
        no_decay=(),
        decay=(r"stem\.1\.weight", r"downsample\.0\.weight"),
        layer_decay=1.0,
    ),
    train=dict(epochs=300, global_batch=4096),
    run=dict(dir="runs/a2mim_convnext_small_finetune", init=row.run.dir, evaluate_every=312),
)
