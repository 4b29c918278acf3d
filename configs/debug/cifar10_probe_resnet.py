"""Linear probe of the small ResNet of cifar10_um_resnet.py on CIFAR-10 enlarged to 64 px, as cifar10_probe_vit.py.

Its batch norms first see 999 whole images, as those of pre-training had seen visible patches only.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load

vit = load("cifar10_probe_vit.py")
resnet = load("cifar10_um_resnet.py")
config = replace(
    vit,
    encoder=replace(resnet.encoder, reads="all"),
    data=replace(vit.data, size=resnet.data.size),
    run=replace(vit.run, dir="runs/cifar10_probe_resnet", init=resnet.run.dir),
)
