"""SimMIM, Swin-B, windows of 6 at 192 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

Published (official README, "Swin-Base", 800 epochs): 84.0 % fine-tune at 224 px.
"""

from fastmim.recipe import change, load

base = load("swin_base_window6_192_100ep.py")
config = change(
    base,
    optim=dict(blr=1e-4, schedule="multistep", decay_epochs=(700,), cosine_from="warmup", min_lr=0.0, warmup_lr=2e-6),
    train=dict(epochs=800),
)
