"""Linear probe of MAE's ViT-B/16, 224 px, 90 epochs.   arXiv:2111.06377, appendix; the official main_linprobe.py.

Published: 67.8 % (1600 epochs of pre-training), 65.1 % (800, mmpretrain's reproduction).
"""

from fastmim.recipe import Head, LabelledData, Optim, Probe, RandomResizedCrop, Run, Train, ViT

config = Probe(
    encoder=ViT("vit_base_patch16_224", pos="learned"),
    data=LabelledData(crop=RandomResizedCrop(scale=(0.08, 1.0), clamp=True, interpolation="bicubic"), size=(224, 224)),
    head=Head(pool="cls", norm="before", init_std=0.01),
    optim=Optim(algorithm="lars", blr=0.1, warmup_epochs=10, momentum=0.9, weight_decay=0.0),
    train=Train(epochs=90, global_batch=16384),
    run=Run(dir="runs/mae_vit_base_probe", init="runs/mae_vit_base_1600ep", evaluate_every=78),
)
