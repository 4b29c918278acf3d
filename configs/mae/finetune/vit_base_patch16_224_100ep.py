"""Fine-tuning of MAE's ViT-B/16, 224 px, 100 epochs.   arXiv:2111.06377; recipe of the official FINETUNE.md.

For another pre-training of the same encoder, add --run.init FOLDER --run.dir OTHER.

Published: 83.6 % (1600 epochs of pre-training), 83.3 % (800, mmpretrain's reproduction).
"""

from fastmim.recipe import Augment, Finetune, Head, LabelledData, Optim, RandomResizedCrop, Run, Train, ViT

config = Finetune(
    encoder=ViT("vit_base_patch16_224", pos="learned", drop_path=0.1),
    data=LabelledData(crop=RandomResizedCrop(scale=(0.08, 1.0), interpolation="bicubic"), size=(224, 224)),
    head=Head(pool="mean", norm="new", init_std=2e-5),
    augment=Augment(rand_augment="rand-m9-mstd0.5-inc1", erase=0.25, mixup=0.8, cutmix=1.0, smoothing=0.1),
    optim=Optim(
        blr=5e-4,
        min_lr=1e-6,
        warmup_epochs=5,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("pos_embed", "cls_token"),
        layer_decay=0.65,
    ),
    train=Train(epochs=100, global_batch=1024),
    run=Run(dir="runs/mae_vit_base_finetune", init="runs/mae_vit_base_1600ep", evaluate_every=1251),
)
