"""Linear probe of the small ViT of cifar10_mae_32px.py on 1000 labelled images of CIFAR-10: half a minute of a core.

    deepspeed fastmim/train.py configs/debug/cifar10_mae_32px.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_probe_vit.py --data.root FEW/train --data.test FEW/test

The learning rate is large because LARS moves a weight by a thousandth of it, and there are 120 updates.
For the same network from random initialisation, add `--run.init None --run.dir runs/cifar10_probe_scratch_vit`.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import Head, Optim, Probe, change, load

finetune = load("cifar10_finetune_vit.py")
config = Probe(
    encoder=change(finetune.encoder, drop_path=0.0),
    data=finetune.data,
    head=Head(pool="mean", norm="before", init_std=0.01),
    optim=Optim(algorithm="lars", blr=200.0, warmup_epochs=0.5, weight_decay=0.0),
    train=change(finetune.train, epochs=8, global_batch=64),
    run=change(finetune.run, log_every=20),
)
