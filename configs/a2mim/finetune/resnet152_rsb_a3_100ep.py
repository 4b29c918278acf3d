"""Fine-tuning of A2MIM's ResNet-152 by RSB A3: 160 px, tested at 224 px, 100 epochs.   arXiv:2110.00476; openmixup.

Published: 80.9 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("resnet50_rsb_a3_100ep.py")
row = load("../pretrain/resnet152_300ep.py")
config = replace(
    base,
    encoder=row.encoder,
    run=replace(base.run, dir="runs/a2mim_resnet152_rsb_a3", init=row.run.dir),
)
