"""Conversion of weights between fastmim and official checkpoints, and to the backbones of detection libraries."""
