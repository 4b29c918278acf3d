"""Fine-tuning of A2MIM's ResNet-101 by RSB A2: 224 px, 300 epochs.   arXiv:2110.00476; recipe of openmixup.

Published: 81.9 %.
"""

from fastmim.recipe import EMA, change, load

base = load("resnet50_rsb_a2_300ep.py")
row = load("../pretrain/resnet101_300ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    ema=EMA(),
    run=dict(dir="runs/a2mim_resnet101_rsb_a2", init=row.run.dir),
)
