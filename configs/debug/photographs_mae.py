"""A small MAE on a few hundred ImageNet photographs, 64-px crops, to see it learn more than a blur.

    deepspeed fastmim/train.py configs/debug/photographs_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import TransformerDecoder, ViT, change, load

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=8, depth=4, embed_dim=128, num_heads=4),
    decoder=TransformerDecoder(dim=64, depth=2, num_heads=2),
    data=dict(size=(64, 64), held_out=100),
    optim=dict(blr=4e-3, warmup_epochs=10),
    train=dict(epochs=240, global_batch=64),
    run=dict(save_every=500, log_every=50, evaluate_every=250),
)
