"""Fine-tuning of A2MIM's ResNet-50 by RSB A3: 160 px, tested at 224 px, 100 epochs.   arXiv:2110.00476; openmixup.

Published: 78.9 % (300 epochs of pre-training), 78.8 % (100).
"""

from fastmim.recipe import EMA, change, load

base = load("resnet50_rsb_a2_300ep.py")
config = change(
    base,
    encoder=dict(drop_path=0.0),
    data=dict(size=(160, 160), test_size=(224, 224), repeats=1, repeats_together=False),
    augment=dict(rand_augment="rand-m6-mstd0.5-inc1"),
    ema=EMA(),
    optim=dict(blr=8e-3, warmup_lr=8e-8),
    train=dict(epochs=100),
    run=dict(dir="runs/a2mim_resnet50_rsb_a3"),
)
