"""A2MIM with a small ResNet on CIFAR-10 enlarged to 64 px, ten minutes on two CPU cores.

A patch of a ResNet is 32 px wide, so two of the four of an image are hidden.

    deepspeed fastmim/train.py configs/debug/cifar10_a2mim_resnet.py --data.root CIFAR/train

Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.encoders.convnet import ResNet
from fastmim.masking import BlockMasking

a2mim = load("cifar10_a2mim.py")
row = load("../a2mim/pretrain/resnet50_300ep.py")
config = replace(
    a2mim,
    masking=BlockMasking(ratio=0.5, block=32),
    encoder=ResNet("resnet18", depths=(1, 1, 1, 1), dims=(32, 64, 128, 256), bn_batch=128, token_layer=1),
    loss=replace(row.loss, fourier=replace(row.loss.fourier, batch=128)),
    optim=replace(a2mim.optim, no_decay=row.optim.no_decay, decay=("mask_gamma",), lr_scale=row.optim.lr_scale),
    run=replace(a2mim.run, dir="runs/cifar10_a2mim_resnet"),
)
