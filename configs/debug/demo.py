"""What `make demo` trains: a small MAE on 64-px crops of a few hundred photographs, two minutes on two CPU cores."""

from dataclasses import replace

from fastmim.config import load
from fastmim.decoders import TransformerDecoder
from fastmim.encoders.vit import ViT

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=8, depth=6),
    decoder=TransformerDecoder(dim=96, depth=2, num_heads=3),
    data=replace(mae.data, root="data/demo", size=(64, 64), held_out=40),
    optim=replace(mae.optim, blr=4e-3, warmup_epochs=2),
    train=replace(mae.train, epochs=40, global_batch=64),
    run=replace(mae.run, dir="runs/demo", save_every=100, log_every=20, evaluate_every=100),
)
