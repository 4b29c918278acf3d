"""MAE with a small ViT on the pictures of shapes_detect_vit.py: six to twelve minutes of a CPU core.

    python -m tests.shapes data/shapes
    deepspeed fastmim/train.py configs/debug/shapes_mae.py

Targets are not normalised, because normalised patches of one colour would be noise.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import Pixels, RandomMasking, RandomResizedCrop, TransformerDecoder, ViT, change, load

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    mae,
    masking=RandomMasking(ratio=0.6),
    encoder=ViT("vit_tiny_patch16_224", patch_size=8, depth=4, embed_dim=128, num_heads=4),
    decoder=TransformerDecoder(dim=64, depth=2, num_heads=4),
    target=Pixels(),
    data=dict(root="data/shapes/all", size=(64, 64), crop=RandomResizedCrop((0.5, 1.0))),
    optim=dict(blr=8e-3, warmup_epochs=4),
    train=dict(epochs=40, global_batch=64),
    run=dict(log_every=50, evaluate_every=0),
)
