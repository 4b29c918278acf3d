"""A small SimMIM on a few hundred photographs, to see it learn more than a blur.

    deepspeed fastmim/train.py configs/debug/photographs_simmim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import BlockMasking, LinearHead, MaskedL1, Pixels, RandomResizedCrop, change, load

mae = load("photographs_mae.py")
config = change(
    mae,
    masking=BlockMasking(ratio=0.6, block=16),
    encoder=dict(reads="all"),  # a BEiT would take longer: its tables of positions start at zero
    decoder=LinearHead(),
    target=Pixels(),
    loss=MaskedL1(),
    data=dict(crop=RandomResizedCrop(scale=(0.67, 1.0), interpolation="bilinear")),
    optim=dict(betas=(0.9, 0.999), clip=5.0),
    train=dict(epochs=120),
)
