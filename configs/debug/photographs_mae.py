"""A small MAE on a few hundred ImageNet photographs, 64-px crops: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders.vit import ViT

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=8, depth=4, embed_dim=128, num_heads=4),
    decoder=TransformerDecoder(dim=64, depth=2, num_heads=2),
    data=replace(mae.data, size=(64, 64), held_out=100),
    optim=replace(mae.optim, blr=4e-3, warmup_epochs=10),
    train=replace(mae.train, epochs=240, global_batch=64),
    run=replace(mae.run, dir="runs/photographs_mae", save_every=500, log_every=50, evaluate_every=250),
)
