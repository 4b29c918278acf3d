"""Segmentation of ADE20K with MAE's ViT-B/16 and UPerNet, 512 px, 160,000 updates.   arXiv:2111.06377.

The recipe is implus/mae_segmentation's `upernet_mae_base_12_512_slide_160k_ade20k.py`. It gives the encoder relative
position biases and layer scales that pre-training does not know; here the encoder is as pre-trained. The levels of the
decoder and their norms are segmentation-models-pytorch's and ViTDet's. configs/README.md has the rest that differs.

    deepspeed fastmim/train.py configs/mae/segment/vit_base_patch16_512_160k.py --run.init RUN

Published: 48.15 mIoU (1600 epochs of pre-training), 48.13 in MMSegmentation.
"""

from fastmim.recipe import MaskData, Optim, Run, ScaleJitterCrop, Segment, Train, UPerNet, ViT

IMAGES, BATCH = 20_210, 16  # of ADE20K's training set; of the published 8 x 2

config = Segment(
    encoder=ViT("vit_base_patch16_224", pos="learned", drop_path=0.1),
    data=MaskData(
        root="data/ade20k/images/training",
        masks="data/ade20k/annotations/training",
        test="data/ade20k/images/validation",
        test_masks="data/ade20k/annotations/validation",
        classes=150,
        reduce_zero_label=True,
        size=(512, 512),
        crop=ScaleJitterCrop(scale=(0.5, 2.0), fit="cover", interpolation="bilinear"),
        test_mode="slide",
    ),
    decoder=UPerNet(channels=768, blocks=(3, 5, 7, 11), dropout=0.1, aux_weight=0.4, aux_channels=256, bn_batch=BATCH),
    distort=True,
    optim=Optim(
        blr=1e-4,
        lr_batch=BATCH,
        schedule="linear",
        cosine_from="start",
        warmup_epochs=1500 * BATCH / IMAGES,
        warmup_lr=1e-10,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        no_decay=("pos_embed", "cls_token"),
        layer_decay=0.65,
    ),
    train=Train(epochs=160_000 * BATCH / IMAGES, global_batch=BATCH),
    run=Run(
        dir="runs/mae_vit_base_segment",
        init="runs/mae_vit_base_1600ep",
        save_every=4000,
        log_every=50,
        evaluate_every=16_000,
    ),
)
