"""Encoders, one module a backbone family. May import timm, L1 and L0."""

from .convnet import ConvNeXt, ResNet
from .vit import ViT

__all__ = ["ConvNeXt", "ResNet", "ViT"]
