"""Encoders, one module a backbone family. May import timm, L1 and L0."""

from .convmae import ConvMAE
from .vit import ViT

__all__ = ["ConvMAE", "ViT"]
