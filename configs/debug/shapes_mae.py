"""MAE with a small ViT on the pictures that shapes_detect_vit.py finds shapes in: minutes on two CPU cores.

python -m tests.shapes data/shapes
deepspeed fastmim/train.py configs/debug/shapes_mae.py
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.data.crops import RandomResizedCrop
from fastmim.decoders import TransformerDecoder
from fastmim.encoders.vit import ViT

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=8, depth=6, embed_dim=128, num_heads=4),
    decoder=TransformerDecoder(dim=96, depth=2, num_heads=4),
    data=replace(mae.data, root="data/shapes/train", size=(96, 96), crop=RandomResizedCrop((0.5, 1.0))),
    optim=replace(mae.optim, blr=1e-3, warmup_epochs=10),
    train=replace(mae.train, epochs=100, global_batch=64),
    run=replace(mae.run, dir="runs/shapes_mae", log_every=50, evaluate_every=0),
)
