"""From files to batches: list images, order samples, draw crops, decode, replace bad files.

May import config, samples, parts and fastmim_kernels.
"""
