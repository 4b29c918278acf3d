"""Fine-tuning of the small ResNet of cifar10_um_resnet.py on 1000 labelled images of CIFAR-10: a minute of a CPU core.

At 32 px: of the 64 px of pre-training the network sees a quarter, put together to 32 px.

    deepspeed fastmim/train.py configs/debug/cifar10_um_resnet.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_resnet.py --data.root FEW/train --data.test FEW/test

The recipe is that of the small ViT; LAMB and binary cross-entropies, as RSB has them, need more updates than this.
The same network from random initialisation: `--run.init None --run.dir runs/cifar10_scratch_resnet`.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.transfer import Head

vit = load("cifar10_finetune_vit.py")
resnet = load("cifar10_um_resnet.py")
config = replace(
    vit,
    encoder=replace(resnet.encoder, reads="all"),
    head=Head(norm="before", init_std=0.01),
    optim=replace(vit.optim, layer_decay=1.0, no_decay=(), clip=1.0),
    run=replace(vit.run, dir="runs/cifar10_finetune_resnet", init=resnet.run.dir),
)
