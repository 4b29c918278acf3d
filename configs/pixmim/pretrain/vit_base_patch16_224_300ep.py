"""PixMIM on MAE, ViT-B/16, 224 px, 300 epochs.   arXiv:2303.02416; recipe of open-mmlab/mmselfsup.

Published (mmselfsup's model zoo): 83.1 % fine-tune, 63.3 % linear. The zoo's probe of MAE used another crop.
"""

from fastmim.recipe import LowPass, SimpleResizedCrop, change, load

base = load("../../mae/pretrain/vit_base_patch16_224_300ep.py")
config = change(
    base,
    target=LowPass(radius=40),
    data=dict(crop=SimpleResizedCrop(pad=4, interpolation="bilinear")),
    run=dict(dir="runs/pixmim_vit_base_300ep"),
)
