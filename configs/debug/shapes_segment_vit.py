"""Segmentation of shapes from the ground with a small ViT on 32 pictures: two minutes of a CPU core.

    python -m tests.shapes data/shapes
    deepspeed fastmim/train.py configs/debug/shapes_mae.py
    deepspeed fastmim/train.py configs/debug/shapes_segment_vit.py

For the same network from random initialisation, add `--run.init None --optim.layer_decay 1 --run.dir
runs/shapes_segment_scratch`. Needs `pip install segmentation-models-pytorch`; drawing the pictures needs pycocotools.
The two classes, ground and shape, were chosen for their gain. With a class for each shape, 64 pictures and 600 updates,
the gain was below the spread.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import MaskData, Optim, Run, ScaleJitterCrop, Segment, Train, UPerNet, change, load

mae = load("shapes_mae.py")
config = Segment(
    encoder=change(mae.encoder, pos="learned", drop_path=0.1),
    data=MaskData(
        root="data/shapes/few",
        masks="data/shapes/few_figures",
        test="data/shapes/test",
        test_masks="data/shapes/test_figures",
        classes=2,
        names=("ground", "shape"),
        size=mae.data.size,
        crop=ScaleJitterCrop((0.6, 1.4)),
    ),
    decoder=UPerNet(channels=32, aux_channels=32),
    optim=Optim(
        blr=4e-2,
        schedule="linear",
        warmup_epochs=8,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        layer_decay=0.75,
        no_decay=("pos_embed", "cls_token"),
    ),
    train=Train(epochs=100, global_batch=16),
    run=Run(init=mae.run.dir, log_every=50, evaluate_every=0),
)
