"""A small SimMIM on CIFAR-10 enlarged to 64 px, ten minutes on two CPU cores, to test its features.

    deepspeed fastmim/train.py configs/debug/cifar10_simmim.py --data.root CIFAR/train

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import change, load

photographs = load("photographs_simmim.py")
cifar10 = load("cifar10_mae.py")
config = change(
    photographs,
    data=dict(held_out=cifar10.data.held_out),
    optim=dict(warmup_epochs=cifar10.optim.warmup_epochs),
    train=cifar10.train,
    run=cifar10.run,
)
