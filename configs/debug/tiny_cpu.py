"""The whole pipeline on a laptop in under a minute: MAE with a 4-block ViT on 32-px crops. What the tests train."""

from dataclasses import replace

from fastmim.config.base import load
from fastmim.model.decoders import TransformerDecoder
from fastmim.model.encoders.vit import ViT

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = replace(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=4, depth=4, embed_dim=64, num_heads=2),
    decoder=TransformerDecoder(dim=32, depth=1, num_heads=2),
    data=replace(mae.data, root="data/demo/train", size=(32, 32), held_out=8),
    optim=replace(mae.optim, blr=1e-3, warmup_epochs=1),
    train=replace(mae.train, epochs=4, global_batch=32),
    run=replace(mae.run, dir="runs/tiny_cpu", save_every=10, log_every=5, evaluate_every=20),
)
