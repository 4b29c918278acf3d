"""Fine-tuning of A2MIM's SimMIM on ViT-L/16, 224 px, 100 epochs.

The A2MIM row has 150 epochs.

Published: 85.6 %.
"""

from fastmim.recipe import change, load

base = load("vit_large_patch16_224_150ep.py")
row = load("../pretrain/simmim_vit_large_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    train=dict(epochs=100),
    run=dict(dir="runs/a2mim_simmim_vit_large_finetune", init=row.run.dir),
)
