"""The smallest MAE that is worth something on CIFAR-10: at 32 px, two minutes of one CPU core, without labels.

    deepspeed fastmim/train.py configs/debug/cifar10_mae_32px.py --data.root CIFAR/train

Its encoder is what cifar10_finetune_vit.py and cifar10_probe_vit.py start from; README.md has the whole sequence.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import change, load

mae = load("cifar10_mae.py")
config = change(
    mae,
    encoder=dict(patch_size=4, embed_dim=64, num_heads=2),
    decoder=dict(dim=48, depth=1),
    data=dict(size=(32, 32)),
    optim=dict(blr=8e-3, warmup_epochs=0.2),
    train=dict(epochs=1.5, global_batch=64),
    run=dict(save_every=2000, evaluate_every=1000),
)
