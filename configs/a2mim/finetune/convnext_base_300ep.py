"""Fine-tuning of A2MIM's ConvNeXt-B, 224 px, 300 epochs.   arXiv:2205.13943; recipe of openmixup.

Published: 84.1 %; 83.6 % of its SimMIM.
"""

from fastmim.recipe import change, load

base = load("convnext_small_300ep.py")
row = load("../pretrain/convnext_base_300ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.5),
    run=dict(dir="runs/a2mim_convnext_base_finetune", init=row.run.dir),
)
