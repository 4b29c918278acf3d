"""A small MAE on CIFAR-10 enlarged to 64 px, ten minutes on two CPU cores, to test its features.

    deepspeed fastmim/train.py configs/debug/cifar10_mae.py --data.root CIFAR/train

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import change, load

photographs = load("photographs_mae.py")
config = change(
    photographs,
    data=dict(held_out=200),
    optim=dict(warmup_epochs=0.5),
    train=dict(epochs=3, global_batch=128),
)
