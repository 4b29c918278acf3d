"""A small UM-MAE on a few hundred photographs, to see it learn more than a blur.

    deepspeed fastmim/train.py configs/debug/photographs_um_mae.py --data.root FOLDER

Measured here: bench/results/learns_*.jsonl.
"""

from fastmim.recipe import UniformMasking, change, load

mae = load("photographs_mae.py")
config = change(mae, masking=UniformMasking(secondary=0.25))
