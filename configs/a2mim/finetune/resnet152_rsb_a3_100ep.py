"""Fine-tuning of A2MIM's ResNet-152 by RSB A3: 160 px, tested at 224 px, 100 epochs.   arXiv:2110.00476; openmixup.

Published: 80.9 %.
"""

from fastmim.recipe import change, load

base = load("resnet50_rsb_a3_100ep.py")
row = load("../pretrain/resnet152_300ep.py")
config = change(base, encoder=row.encoder, run=dict(dir="runs/a2mim_resnet152_rsb_a3", init=row.run.dir))
