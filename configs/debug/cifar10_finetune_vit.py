"""Fine-tuning of the small ViT of cifar10_mae.py on CIFAR-10 enlarged to 64 px: minutes on two CPU cores.

    deepspeed fastmim/train.py configs/debug/cifar10_mae.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_vit.py --data.root CIFAR/train --data.test CIFAR/test

The same network from random initialisation: `--run.init None --run.dir runs/cifar10_scratch_vit`.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config import Optim, Run, Train, load
from fastmim.data.crops import RandomResizedCrop
from fastmim.transfer import Augment, Finetune, Head, LabelledData

mae = load("cifar10_mae.py")
config = Finetune(
    encoder=replace(mae.encoder, pos="learned", drop_path=0.1),
    data=LabelledData(
        root="data/cifar10/train",
        test="data/cifar10/test",
        size=mae.data.size,
        crop=RandomResizedCrop((0.35, 1.0)),
        crop_pct=1.0,
    ),
    head=Head(pool="mean", norm="new", init_std=2e-5),
    augment=Augment(rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1),
    optim=Optim(
        blr=1e-3,
        warmup_epochs=0.5,
        min_lr=1e-6,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        layer_decay=0.75,
        no_decay=("pos_embed", "cls_token"),
    ),
    train=Train(epochs=5, global_batch=128),
    run=Run(dir="runs/cifar10_finetune_vit", init=mae.run.dir, log_every=50, evaluate_every=0),
)
