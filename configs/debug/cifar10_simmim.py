"""A small SimMIM on CIFAR-10 enlarged to 64 px, ten minutes on two CPU cores: do its features tell classes apart?

    deepspeed fastmim/train.py configs/debug/cifar10_simmim.py --data.root CIFAR/train

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load

photographs = load("photographs_simmim.py")
cifar10 = load("cifar10_mae.py")
config = replace(
    photographs,
    data=replace(photographs.data, held_out=cifar10.data.held_out),
    optim=replace(photographs.optim, warmup_epochs=cifar10.optim.warmup_epochs),
    train=cifar10.train,
    run=replace(cifar10.run, dir="runs/cifar10_simmim"),
)
