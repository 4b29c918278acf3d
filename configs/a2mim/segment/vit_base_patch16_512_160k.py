"""Segmentation of ADE20K with A2MIM's ViT-B/16 and UPerNet, 512 px, 160,000 updates.   arXiv:2205.13943.

The recipe of openmixup's MMSegmentation config, which is MAE's. Drop path and the start of the warm-up, which that
config does not give, are MAE's too.

Published: 49.0 mIoU.
"""

from fastmim.recipe import change, load

base = load("../../mae/segment/vit_base_patch16_512_160k.py")
finetune = load("../finetune/vit_base_patch16_224_100ep.py")
config = change(
    base,
    encoder=change(finetune.encoder, drop_path=0.1),
    optim=dict(no_decay=finetune.optim.no_decay),
    run=dict(dir="runs/a2mim_vit_base_segment", init=finetune.run.init),
)
