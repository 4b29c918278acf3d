"""A small MAE on CIFAR-10 enlarged to 64 px, ten minutes on two CPU cores: do its features tell classes apart?

    deepspeed fastmim/train.py configs/debug/cifar10_mae.py --data.root CIFAR/train

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load

photographs = load("photographs_mae.py")
config = replace(
    photographs,
    data=replace(photographs.data, held_out=200),
    optim=replace(photographs.optim, warmup_epochs=0.5),
    train=replace(photographs.train, epochs=3, global_batch=128),
    run=replace(photographs.run, dir="runs/cifar10_mae"),
)
