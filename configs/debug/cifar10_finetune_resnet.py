"""Fine-tuning of the small ResNet of cifar10_a2mim_resnet.py on CIFAR-10 enlarged to 64 px: minutes on two CPU cores.

    deepspeed fastmim/train.py configs/debug/cifar10_a2mim_resnet.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_resnet.py --data.root CIFAR/train --data.test CIFAR/test

LAMB and binary cross-entropies, as in RSB A3 (arXiv:2110.00476). The same network from random initialisation:
`--run.init None --run.dir runs/cifar10_scratch_resnet`.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config import Optim, load
from fastmim.transfer import Head

vit = load("cifar10_finetune_vit.py")
resnet = load("cifar10_a2mim_resnet.py")
config = replace(
    vit,
    encoder=resnet.encoder,
    data=replace(vit.data, size=resnet.data.size),
    head=Head(norm="before", init_std=0.01),
    augment=replace(vit.augment, mixup=0.1, cutmix=1.0, smoothing=0.0, loss="bce"),
    optim=Optim(
        algorithm="lamb",
        blr=4e-3,
        lr_batch=512,
        warmup_epochs=0.5,
        min_lr=1e-6,
        betas=(0.9, 0.999),
        eps=1e-6,
        weight_decay=0.02,
        clip=1.0,
    ),
    run=replace(vit.run, dir="runs/cifar10_finetune_resnet", init=resnet.run.dir),
)
