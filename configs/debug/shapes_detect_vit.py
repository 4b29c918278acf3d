"""Mask R-CNN with a small ViT on 32 pictures of rectangles, discs and triangles: three minutes of a CPU core.

    python -m tests.shapes data/shapes
    deepspeed fastmim/train.py configs/debug/shapes_mae.py
    deepspeed fastmim/train.py configs/debug/shapes_detect_vit.py

For the same detector from random initialisation, add `--run.init None --optim.layer_decay 1 --run.dir
runs/shapes_detect_scratch`. Needs `pip install pycocotools`. The number of pictures was chosen for its
gain. With 64 pictures, box AP was 60 and 63 after pre-training, and 40, 52 and 55 from scratch. That gain is below the
spread.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import RCNN, AnnotatedData, Detect, Optim, Run, ScaleJitterCrop, Train, change, load

mae = load("shapes_mae.py")
config = Detect(
    encoder=change(mae.encoder, pos="learned", drop_path=0.1),
    data=AnnotatedData(
        root="data/shapes/few",
        annotations="data/shapes/few.json",
        test="data/shapes/test",
        test_annotations="data/shapes/test.json",
        size=mae.data.size,
        crop=ScaleJitterCrop((0.6, 1.4)),
    ),
    rcnn=RCNN(channels=32, rpn_convs=1, box_convs=1, box_width=128, mask_convs=2, anchor=6.0, proposals=32),
    optim=Optim(
        blr=2e-3,
        lr_batch=16,
        warmup_epochs=8,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        layer_decay=0.75,
        no_decay=("pos_embed", "cls_token"),
        clip=1.0,
    ),
    train=Train(epochs=100, global_batch=8),
    run=Run(init=mae.run.dir, log_every=25, evaluate_every=0),
)
