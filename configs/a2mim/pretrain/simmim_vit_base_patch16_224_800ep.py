"""SimMIM as A2MIM's baseline, ViT-B/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of openmixup's configs.

Unlike microsoft's, this ViT has absolute positions and a table of relative ones in each block.
Published (README of Westlake-AI/A2MIM, "ViT-B", SimMIM): 83.8 % fine-tune.
Measured here: not yet.
"""

from fastmim.config import Config, Data, Optim, Run, Train
from fastmim.data.crops import RandomResizedCrop
from fastmim.decoders import LinearHead
from fastmim.encoders.beit import BEiT
from fastmim.losses import MaskedL1
from fastmim.masking import BlockMasking
from fastmim.targets import Pixels

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=BEiT(
        "beit_base_patch16_224",
        absolute_pos=True,
        shared_bias=False,
        init="a2mim",
        drop_path=0.1,
    ),
    decoder=LinearHead(init="trunc_normal"),
    target=Pixels(),
    loss=MaskedL1(),
    data=Data(crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear"), size=(224, 224)),
    optim=Optim(
        blr=1e-4,
        lr_batch=512,
        schedule="multistep",
        decay_epochs=(700,),
        warmup_epochs=10,
        warmup_lr=8e-10,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("relative_position_bias_table", "mask_token", "pos_embed", "cls_token"),
        clip=5.0,
    ),
    train=Train(epochs=800, global_batch=2048),
    run=Run(dir="runs/a2mim_simmim_vit_base_patch16_224_800ep"),
)
