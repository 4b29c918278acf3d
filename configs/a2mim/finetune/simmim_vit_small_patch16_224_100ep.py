"""Fine-tuning of A2MIM's SimMIM on ViT-S/16 (768 x 8), 224 px, 100 epochs.

The A2MIM row has 200 epochs.

Published: 81.7 %.
"""

from fastmim.recipe import change, load

base = load("vit_small_patch16_224_200ep.py")
row = load("../pretrain/simmim_vit_small_patch16_224_800ep.py")
config = change(
    base,
    encoder=change(row.encoder, drop_path=0.1),
    train=dict(epochs=100),
    run=dict(dir="runs/a2mim_simmim_vit_small_finetune", init=row.run.dir),
)
