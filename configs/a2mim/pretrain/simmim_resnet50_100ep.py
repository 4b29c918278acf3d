"""SimMIM baseline of A2MIM, ResNet-50, 224 px, 100 epochs.   arXiv:2205.13943.

The recipe of 300 epochs, for the comparison with resnet50_100ep.py; the official code has no file for it.

Published: none for 100 epochs.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("simmim_resnet50_300ep.py")
config = replace(
    base,
    train=replace(base.train, epochs=100),
    run=replace(base.run, dir="runs/a2mim_simmim_resnet50_100ep"),
)
