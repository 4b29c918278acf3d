"""Fine-tuning of A2MIM's ResNet-50 by RSB A2: 224 px, 300 epochs.   arXiv:2110.00476; recipe of openmixup.

openmixup averages the weights for this depth only. For the SimMIM baseline, add --run.init
runs/a2mim_simmim_resnet50_300ep.

Published: 80.4 %; 79.9 % of its SimMIM.
"""

from fastmim.recipe import (
    EMA,
    Augment,
    Finetune,
    Head,
    LabelledData,
    Optim,
    RandomResizedCrop,
    Run,
    Train,
    change,
    load,
)

row = load("../pretrain/resnet50_300ep.py")
config = Finetune(
    encoder=change(row.encoder, drop_path=0.05),
    data=LabelledData(
        crop=RandomResizedCrop(scale=(0.08, 1.0), interpolation="bicubic"),
        size=(224, 224),
        crop_pct=0.95,
        repeats=3,
        repeats_together=True,
    ),
    head=Head(pool="mean", norm="before", init_std=0.01),
    augment=Augment(rand_augment="rand-m7-mstd0.5-inc1", erase=0.0, mixup=0.1, cutmix=1.0, smoothing=0.0, loss="bce"),
    ema=EMA(decay=0.9999, warmup_epochs=20),
    optim=Optim(
        algorithm="lamb",
        blr=5e-3,
        lr_batch=2048,
        cosine_from="start",
        min_lr=1e-6,
        warmup_epochs=5,
        warmup_lr=5e-8,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.02,
        decay=(r"downsample\.1\.weight",),
        clip=1.0,
    ),
    train=Train(epochs=300, global_batch=2048),
    run=Run(dir="runs/a2mim_resnet50_rsb_a2", init=row.run.dir, evaluate_every=625),
)
