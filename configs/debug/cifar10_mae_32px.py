"""The smallest MAE that is worth something on CIFAR-10: at 32 px, two minutes of one CPU core, without labels.

    deepspeed fastmim/train.py configs/debug/cifar10_mae_32px.py --data.root CIFAR/train

Its encoder is what cifar10_finetune_vit.py and cifar10_probe_vit.py start from; README.md has the whole sequence.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config.base import load

mae = load("cifar10_mae.py")
config = replace(
    mae,
    encoder=replace(mae.encoder, patch_size=4, embed_dim=64, num_heads=2),
    decoder=replace(mae.decoder, dim=48, depth=1),
    data=replace(mae.data, size=(32, 32)),
    optim=replace(mae.optim, blr=8e-3, warmup_epochs=0.2),
    train=replace(mae.train, epochs=1.5, global_batch=64),
    run=replace(mae.run, dir="runs/cifar10_mae_32px", save_every=2000, evaluate_every=1000),
)
