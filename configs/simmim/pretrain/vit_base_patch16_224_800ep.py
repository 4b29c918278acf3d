"""SimMIM, ViT-B/16, 224 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

BEiT's ViT: no absolute positions, one table of relative ones, LayerScale.
Published (official README, "ViT-Base", 800 epochs): 83.8 % fine-tune.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.encoders.beit import BEiT

base = load("swin_base_window6_192_800ep.py")
config = replace(
    base,
    encoder=BEiT("beit_base_patch16_224", drop_path=0.1),
    data=replace(base.data, size=(224, 224)),
    optim=replace(base.optim, no_decay=("cls_token",)),
    run=replace(base.run, dir="runs/simmim_vit_base_patch16_224_800ep"),
)
