"""The way from files to batches: lists, sample order, crops, decoders, and substitutes of bad files.

May import config, samples, parts and fastmim_kernels.
"""
