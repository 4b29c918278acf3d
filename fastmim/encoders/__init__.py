"""Encoders, one module a backbone family. May import timm, L1 and L0."""

from .vit import ViT

__all__ = ["ViT"]
