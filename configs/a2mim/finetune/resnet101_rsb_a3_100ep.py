"""Fine-tuning of A2MIM's ResNet-101 by RSB A3: 160 px, tested at 224 px, 100 epochs.   arXiv:2110.00476; openmixup.

Published: 80.3 %.
"""

from fastmim.recipe import change, load

base = load("resnet50_rsb_a3_100ep.py")
row = load("../pretrain/resnet101_300ep.py")
config = change(base, encoder=row.encoder, run=dict(dir="runs/a2mim_resnet101_rsb_a3", init=row.run.dir))
