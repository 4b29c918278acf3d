"""Linear probe of the small ResNet of cifar10_a2mim_resnet.py on CIFAR-10, as cifar10_probe_vit.py.

Its batch norms first see 999 whole images, because in pre-training they saw only masked images.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import change, load

vit = load("cifar10_probe_vit.py")
resnet = load("cifar10_a2mim_resnet.py")
config = change(vit, encoder=resnet.encoder, run=dict(init=resnet.run.dir))
