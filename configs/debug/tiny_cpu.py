"""MAE with a 4-block ViT on 32-px crops: the whole pipeline in under a minute on a laptop, and in the tests."""

from fastmim.recipe import TransformerDecoder, ViT, change, load

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    mae,
    encoder=ViT("vit_tiny_patch16_224", patch_size=4, depth=4, embed_dim=64, num_heads=2),
    decoder=TransformerDecoder(dim=32, depth=1, num_heads=2),
    data=dict(root="data/demo/train", size=(32, 32), held_out=8),
    optim=dict(blr=1e-3, warmup_epochs=1),
    train=dict(epochs=4, global_batch=32),
    run=dict(save_every=10, log_every=5, evaluate_every=20),
)
