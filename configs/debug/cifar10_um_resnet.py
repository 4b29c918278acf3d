"""UM-MAE with a small ResNet on CIFAR-10 enlarged to 64 px, two minutes of one CPU core, without labels.

A convolutional network cannot leave hidden patches out, but one visible patch of each four makes an image of a quarter
of the size, and so an update of a quarter of the time.

    deepspeed fastmim/train.py configs/debug/cifar10_um_resnet.py --data.root CIFAR/train

Its encoder is what cifar10_finetune_resnet.py and cifar10_probe_resnet.py start from; README.md has the whole sequence.
Measured here: bench/results/transfer_*.jsonl.
"""

from dataclasses import replace

from fastmim.config import load
from fastmim.encoders.convnet import ResNet
from fastmim.masking import UniformMasking

mae = load("cifar10_mae.py")
config = replace(
    mae,
    masking=UniformMasking(secondary=0.0),
    encoder=ResNet("resnet18", depths=(1, 1, 1, 1), dims=(32, 64, 128, 256), bn_batch=32, reads="visible"),
    decoder=replace(mae.decoder, depth=1),
    optim=replace(mae.optim, blr=8e-3, warmup_epochs=0.1),
    train=replace(mae.train, epochs=1.2, global_batch=32),
    run=replace(mae.run, dir="runs/cifar10_um_resnet", save_every=2000, evaluate_every=1000),
)
