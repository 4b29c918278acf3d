"""Visible patches of an image batch, normalised, in the layout the patch-embedding GEMM reads."""

from .reference import patch_gather

__all__ = ["patch_gather"]
