"""UM-MAE, Swin-L, 256 px, 800 epochs.   arXiv:2205.10063, main table, row Swin-L UM-MAE.

Recipe of implus/UM-MAE's Makefile, `pretrain_mae_swin_large_256_mask_vmr025_800e`.

Published (the repository's README): 85.2 % fine-tune.
"""

from fastmim.recipe import TransformerDecoder, UMSwin, change, load

tiny = load("swin_tiny_256_200ep.py")
config = change(
    tiny,
    encoder=UMSwin(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48), window=16, posmlp_dim=64),
    decoder=TransformerDecoder(dim=512, depth=8, num_heads=16, official_pos_order=True),
    optim=dict(warmup_epochs=40),
    train=dict(epochs=800),
    run=dict(dir="runs/um_mae_swin_large_800ep"),
)
