"""Mask R-CNN on MAE's ViT-L/16, 1024 px, 100 epochs of COCO.   ViTDet, arXiv:2203.16527.

Drop path and layer decay are the paper's for ViT-L. All else, with the differences from the paper, is as in
vit_base_patch16_1024_100ep.py.

Published: box AP 55.6, mask AP 49.2 (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("vit_base_patch16_1024_100ep.py")
config = change(
    base,
    encoder=dict(name="vit_large_patch16_224", drop_path=0.4),
    optim=dict(layer_decay=0.8),
    run=dict(dir="runs/mae_vit_large_detect", init="runs/mae_vit_large_1600ep"),
)
