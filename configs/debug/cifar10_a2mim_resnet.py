"""A small ResNet on CIFAR-10, without labels, four minutes of a CPU core.

    deepspeed fastmim/train.py configs/debug/cifar10_a2mim_resnet.py --data.root CIFAR/train

As in A2MIM, hidden patches have the mean colour, and a token joins them at the third stage. Random masking, target and
loss are those of MAE. The last two stages are dilated, because a stride of 32 would leave one position of 32 px.
cifar10_finetune_resnet.py and cifar10_probe_resnet.py start from this encoder.
Measured here: bench/results/transfer_*.jsonl.
"""

from fastmim.recipe import LinearHead, RandomMasking, RandomResizedCrop, ResNet, change, load

mae = load("cifar10_mae_32px.py")
config = change(
    mae,
    masking=RandomMasking(ratio=0.5),
    encoder=ResNet(
        "resnet18",
        token_layer=2,
        token="add",
        depths=(1, 1, 1, 1),
        dims=(32, 64, 128, 128),
        output_stride=8,
        bn_batch=64,
    ),
    decoder=LinearHead(init="trunc_normal"),
    data=dict(crop=RandomResizedCrop((0.5, 1.0))),
    optim=dict(blr=8e-3, warmup_epochs=0.1, clip=5.0),
)
