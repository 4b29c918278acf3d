"""Mask R-CNN with a feature pyramid on A2MIM's ResNet-50, 1024 px, 24 epochs of COCO ("2x").   Recipe of openmixup.

SGD, schedule and scales (short side 640 to 800) are openmixup's for MMDetection, which trains all of the network and
its batch norms. Differences: layer norms in pyramid and heads where openmixup has batch norms of all processes; heads
and losses are torchvision's. The published figure is of another head, the C4 form.

Published: box AP 39.8, mask AP 34.9 (C4).
"""

from fastmim.recipe import RCNN, Optim, ScaleJitterCrop, change, load

base = load("../../mae/detect/vit_base_patch16_1024_100ep.py")
row = load("../pretrain/resnet50_300ep.py")
IMAGES = 117_266  # of train2017 that show objects
config = change(
    base,
    encoder=change(row.encoder, bn_batch=16),
    data=dict(crop=ScaleJitterCrop((0.8, 1.0), interpolation="bilinear")),
    rcnn=RCNN(rpn_convs=1),
    optim=Optim(
        algorithm="sgd",
        blr=0.02,
        lr_batch=16,
        schedule="multistep",
        decay_epochs=(16, 23),
        warmup_epochs=1000 * 16 / IMAGES,
        warmup_lr=2e-5,
        momentum=0.9,
        weight_decay=1e-4,
    ),
    train=dict(epochs=24, global_batch=16),
    run=dict(dir="runs/a2mim_resnet50_detect", init=row.run.dir, evaluate_every=22_000),
)
