"""Segmentation of ADE20K with ConvMAE-B and UPerNet, 512 px, 160,000 updates.   arXiv:2205.03892.

MAE's recipe with another drop path and layer decay, on the maps of the three stages and a max pool of the last; these
and the other values are those of the official segmentation code.

Published: 51.7 mIoU (1600 epochs of pre-training).
"""

from fastmim.recipe import change, load

base = load("../../mae/segment/vit_base_patch16_512_160k.py")
row = load("../pretrain/convmae_base_224_1600ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.2),
    decoder=dict(blocks=()),
    optim=dict(layer_decay=0.75, no_decay=("pos_embed",)),
    run=dict(dir="runs/convmae_base_segment", init=row.run.dir),
)
