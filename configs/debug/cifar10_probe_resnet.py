"""Linear probe of the small ResNet of cifar10_a2mim_resnet.py on CIFAR-10, as cifar10_probe_vit.py.

Its batch norms first see 999 whole images, as those of pre-training had seen masked ones only.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load

vit = load("cifar10_probe_vit.py")
resnet = load("cifar10_a2mim_resnet.py")
config = replace(
    vit,
    encoder=resnet.encoder,
    run=replace(vit.run, dir="runs/cifar10_probe_resnet", init=resnet.run.dir),
)
