"""Mask R-CNN on MAE's ViT-B/16, 1024 px, 100 epochs of COCO.   ViTDet, arXiv:2203.16527; detectron2's recipe.

From detectron2's `mask_rcnn_vitdet_b_100ep`: 184,375 updates, lowered at 163,889 and 177,546. Differences: every block
attends to the whole image (windows of 14 in all but 4 blocks there), without tables of relative positions; biases have
no weight decay; heads and their losses are torchvision's.

Published: box AP 51.6, mask AP 45.9 (1600 epochs of pre-training).
"""

from fastmim.recipe import AnnotatedData, Detect, Optim, Run, ScaleJitterCrop, Train, ViT

UPDATES = 184_375
config = Detect(
    encoder=ViT("vit_base_patch16_224", pos="learned", drop_path=0.1),
    data=AnnotatedData(
        root="data/coco/train2017",
        annotations="data/coco/annotations/instances_train2017.json",
        test="data/coco/val2017",
        test_annotations="data/coco/annotations/instances_val2017.json",
        size=(1024, 1024),
        crop=ScaleJitterCrop((0.1, 2.0), interpolation="bilinear"),
    ),
    optim=Optim(
        blr=1e-4,
        lr_batch=64,
        schedule="multistep",
        decay_epochs=(100 * 163_889 / UPDATES, 100 * 177_546 / UPDATES),
        warmup_epochs=100 * 250 / UPDATES,
        warmup_lr=1e-7,
        betas=(0.9, 0.999),
        weight_decay=0.1,
        no_decay=("pos_embed",),
        layer_decay=0.7,
    ),
    train=Train(epochs=100, global_batch=64),
    run=Run(dir="runs/mae_vit_base_detect", init="runs/mae_vit_base_1600ep", evaluate_every=18_000),
)
