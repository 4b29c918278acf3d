"""Images in: which files, in what order, which window of each, and the loaders that decode them.

May import config, tokens and fastmim_kernels.
"""
