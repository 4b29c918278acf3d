"""SimMIM baseline of A2MIM, ResNet-101, 224 px, 800 epochs.   arXiv:2205.13943.

The recipe of 300 epochs, for the comparison with resnet101_800ep.py; the official code has no file for it.

Published: none for 800 epochs.
"""

from fastmim.recipe import change, load

base = load("simmim_resnet101_300ep.py")
config = change(base, train=dict(epochs=800))
