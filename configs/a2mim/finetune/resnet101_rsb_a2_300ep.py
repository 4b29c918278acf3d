"""Fine-tuning of A2MIM's ResNet-101 by RSB A2: 224 px, 300 epochs.   arXiv:2110.00476; recipe of openmixup.

Published: 81.9 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.config.classify import EMA

base = load("resnet50_rsb_a2_300ep.py")
row = load("../pretrain/resnet101_300ep.py")
config = replace(
    base,
    encoder=replace(row.encoder, drop_path=0.1),
    ema=EMA(),
    run=replace(base.run, dir="runs/a2mim_resnet101_rsb_a2", init=row.run.dir),
)
