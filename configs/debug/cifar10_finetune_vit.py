"""Fine-tuning of the small ViT of cifar10_mae_32px.py on 1000 labelled images of CIFAR-10: a minute of one CPU core.

    deepspeed fastmim/train.py configs/debug/cifar10_mae_32px.py --data.root CIFAR/train
    deepspeed fastmim/train.py configs/debug/cifar10_finetune_vit.py --data.root FEW/train --data.test FEW/test

For the same network from random initialisation, add `--run.init None --optim.layer_decay 1 --run.dir
runs/cifar10_scratch_vit`. `optim.blr` was chosen on one seed. 2e-2 gave 41.9 % after pre-training and 29.0 % from
scratch; 8e-3 gave 39.8 % and 27.9 %. With the CPU time of pre-training and fine-tuning together, training from scratch
has 85 epochs; the one seed with 56 epochs ended higher.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import Augment, Finetune, Head, LabelledData, Optim, RandomResizedCrop, Run, Train, change, load

mae = load("cifar10_mae_32px.py")
config = Finetune(
    encoder=change(mae.encoder, pos="learned", drop_path=0.1),
    data=LabelledData(
        root="data/cifar10/train",
        test="data/cifar10/test",
        size=mae.data.size,
        crop=RandomResizedCrop((0.35, 1.0)),
        crop_pct=1.0,
    ),
    head=Head(pool="mean", norm="new", init_std=2e-5),
    augment=Augment(rand_augment=None, erase=0.0, mixup=0.0, cutmix=0.0, smoothing=0.1),
    optim=Optim(
        blr=2e-2,
        warmup_epochs=0.5,
        min_lr=1e-6,
        betas=(0.9, 0.999),
        weight_decay=0.05,
        layer_decay=0.75,
        no_decay=("pos_embed", "cls_token"),
    ),
    train=Train(epochs=12, global_batch=32),
    run=Run(init=mae.run.dir, log_every=50, evaluate_every=0),
)
