"""Fine-tuning of the small ResNet of cifar10_a2mim_resnet.py on 100 labels of CIFAR-10: half a minute of a CPU core.

    deepspeed fastmim/train.py configs/debug/cifar10_a2mim_resnet.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_resnet.py --data.root FEWER/train --data.test CIFAR/test

The recipe is that of the small ViT; LAMB and binary cross-entropies, as RSB has them, need more updates than this.
The same network from random initialisation: `--run.init None --run.dir runs/cifar10_scratch_resnet`.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.transfer import Head

vit = load("cifar10_finetune_vit.py")
resnet = load("cifar10_a2mim_resnet.py")
config = replace(
    vit,
    encoder=resnet.encoder,
    head=Head(norm="before", init_std=0.01),
    optim=replace(vit.optim, blr=8e-3, layer_decay=1.0, no_decay=(), warmup_epochs=5, clip=1.0),
    train=replace(vit.train, epochs=80),
    run=replace(vit.run, dir="runs/cifar10_finetune_resnet", init=resnet.run.dir),
)
