"""SimMIM, Swin-L, windows of 12 at 192 px, 800 epochs.   arXiv:2111.09886; recipe of microsoft/SimMIM's configs.

Published (official README, "Swin-Large", 800 epochs): 85.4 % fine-tune at 224 px.
"""

from fastmim.recipe import Swin, change, load

base = load("swin_base_window6_192_800ep.py")
config = change(base, encoder=Swin("swin_large_patch4_window7_224", window=12))
