"""A small A2MIM on a few hundred photographs, to see it learn more than a blur.

    deepspeed fastmim/train.py configs/debug/photographs_a2mim.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import FocalFrequency, MaskedL1, WithFourier, change, load

simmim = load("photographs_simmim.py")
config = change(
    simmim,
    encoder=dict(fill="mean", token="add"),
    decoder=dict(init="trunc_normal"),
    loss=WithFourier(spatial=MaskedL1(), fourier=FocalFrequency(batch=64), weight=0.1),
)
