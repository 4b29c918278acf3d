"""A small MAE on a few hundred ImageNet photographs, 64-px crops: does it learn more than a blur?

    deepspeed fastmim/train.py configs/debug/photographs.py --data.root FOLDER

With 900 of 1,000 photographs for training, its loss on the other 100 falls below that of every trivial predictor.
"""

from dataclasses import replace

from fastmim.config import load

demo = load("demo.py")
config = replace(
    demo,
    data=replace(demo.data, held_out=100),
    optim=replace(demo.optim, warmup_epochs=10),
    train=replace(demo.train, epochs=300),
    run=replace(demo.run, dir="runs/photographs", save_every=500, log_every=50, evaluate_every=250),
)
