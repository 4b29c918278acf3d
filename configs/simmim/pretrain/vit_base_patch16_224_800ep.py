"""SimMIM, ViT-B/16, 224 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

BEiT's ViT: no absolute positions, one table of relative ones, LayerScale.
Published (official README, "ViT-Base", 800 epochs): 83.8 % fine-tune.
"""

from fastmim.recipe import BEiT, change, load

base = load("swin_base_window6_192_800ep.py")
config = change(
    base,
    encoder=BEiT("beit_base_patch16_224", drop_path=0.1),
    data=dict(size=(224, 224)),
    optim=dict(no_decay=("cls_token",)),
)
