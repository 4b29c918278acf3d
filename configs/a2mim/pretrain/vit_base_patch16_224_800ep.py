"""A2MIM, ViT-B/16, 224 px, 800 epochs.   arXiv:2205.13943; recipe of Westlake-AI/openmixup's configs.

The Fourier loss averages spectra over 128 images of a micro-batch: choose a micro-batch that is a multiple of 128.
Published (official README, "ViT-B"): 84.2 % fine-tune (84.3 % in its detailed table).
"""

from fastmim.recipe import (
    BEiT,
    BlockMasking,
    Config,
    Data,
    FocalFrequency,
    LinearHead,
    MaskedL1,
    Optim,
    Pixels,
    RandomResizedCrop,
    Train,
    WithFourier,
)

config = Config(
    masking=BlockMasking(ratio=0.6, block=32),
    encoder=BEiT(
        "beit_base_patch16_224",
        absolute_pos=True,
        shared_bias=False,
        init="a2mim",
        drop_path=0.1,
        fill="mean",
        token="add",
    ),
    decoder=LinearHead(init="trunc_normal"),
    target=Pixels(),
    loss=WithFourier(
        spatial=MaskedL1(), fourier=FocalFrequency(batch=128), weight=0.1, visible="mixed", visible_weight=0.0
    ),
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
)
