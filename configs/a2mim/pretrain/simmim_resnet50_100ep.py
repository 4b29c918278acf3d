"""SimMIM baseline of A2MIM, ResNet-50, 224 px, 100 epochs.   arXiv:2205.13943.

The recipe of 300 epochs, for the comparison with resnet50_100ep.py; the official code has no file for it.

Published: none for 100 epochs.
"""

from fastmim.recipe import change, load

base = load("simmim_resnet50_300ep.py")
config = change(base, train=dict(epochs=100))
