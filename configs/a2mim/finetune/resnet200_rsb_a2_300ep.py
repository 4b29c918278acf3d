"""Fine-tuning of A2MIM's ResNet-200 by RSB A2: 224 px, 300 epochs.   arXiv:2110.00476; recipe of openmixup.

Published: 83.0 %.
"""

from fastmim.recipe import EMA, change, load

base = load("resnet50_rsb_a2_300ep.py")
row = load("../pretrain/resnet200_300ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.2),
    ema=EMA(),
    run=dict(dir="runs/a2mim_resnet200_rsb_a2", init=row.run.dir),
)
