"""PixMIM on MAE, ViT-B/16, 224 px, 300 epochs.   arXiv:2303.02416; recipe of open-mmlab/mmselfsup.

Published (mmselfsup's model zoo): 83.1 % fine-tune, 63.3 % linear. The zoo's probe of MAE used another crop.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.data.crops import SimpleResizedCrop
from fastmim.model.targets import LowPass

base = load("../../mae/pretrain/vit_base_patch16_224_300ep.py")
config = replace(
    base,
    target=LowPass(radius=40),
    data=replace(base.data, crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=replace(base.run, dir="runs/pixmim_vit_base_300ep"),
)
