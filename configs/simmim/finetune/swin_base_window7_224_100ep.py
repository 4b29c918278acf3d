"""Fine-tuning of SimMIM's Swin-B, windows of 7 at 224 px, 100 epochs, after 100 epochs of pre-training.

The tables of relative positions are resized from windows of 6. arXiv:2111.09886; microsoft/SimMIM's configs.

Published: 83.5 %.
Measured here: not yet.
"""

from dataclasses import replace

from fastmim.config.base import load

base = load("swin_base_window6_192_100ep.py")
config = replace(
    base,
    encoder=replace(base.encoder, window=7),
    data=replace(base.data, size=(224, 224)),
    run=replace(base.run, dir="runs/simmim_swin_base_224_finetune"),
)
