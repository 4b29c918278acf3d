"""Linear probe of the small ViT of cifar10_mae.py on CIFAR-10 enlarged to 64 px: minutes on two CPU cores.

    deepspeed fastmim/train.py configs/debug/cifar10_mae.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_probe_vit.py --data.root CIFAR/train --data.test CIFAR/test

The same network from random initialisation: `--run.init None --run.dir runs/cifar10_probe_scratch_vit`.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config import Optim, load
from fastmim.transfer import Head, Probe

finetune = load("cifar10_finetune_vit.py")
config = Probe(
    encoder=replace(finetune.encoder, drop_path=0.0),
    data=finetune.data,
    head=Head(pool="mean", norm="before", init_std=0.01),
    optim=Optim(algorithm="lars", blr=0.1, warmup_epochs=0.5, weight_decay=0.0),
    train=replace(finetune.train, epochs=5, global_batch=512, micro_batch=128),
    run=replace(finetune.run, dir="runs/cifar10_probe_vit", log_every=20),
)
