"""Encoders, one module a backbone family. May import timm, L1 and L0."""

from .beit import BEiT
from .convmae import ConvMAE
from .swin import Swin
from .vit import ViT

__all__ = ["BEiT", "ConvMAE", "Swin", "ViT"]
