"""Fine-tuning of SimMIM's Swin-B, windows of 7 at 224 px, 100 epochs, after 100 epochs of pre-training.

The tables of relative positions are resized from windows of 6. arXiv:2111.09886; microsoft/SimMIM's configs.

Published: 83.5 %.
"""

from fastmim.recipe import change, load

base = load("swin_base_window6_192_100ep.py")
config = change(
    base,
    encoder=dict(window=7),
    data=dict(size=(224, 224)),
    run=dict(dir="runs/simmim_swin_base_224_finetune"),
)
