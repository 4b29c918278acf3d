"""Encoders: one module per backbone family, and the base class of their networks."""

from .base import EncoderModule, ImageInput
from .beit import BEiT
from .convmae import ConvMAE
from .convnet import ConvNeXt, ResNet
from .swin import Swin
from .um_pvt import UMPVT
from .um_swin import UMSwin
from .vit import ViT

__all__ = ["BEiT", "ConvMAE", "ConvNeXt", "EncoderModule", "ImageInput", "ResNet", "Swin", "UMPVT", "UMSwin", "ViT"]

PRETRAINING_ONLY = {"mask_token", "mask_gamma", "vis_mask_token"}
"""Last parts of the names of parameters that only masked images need; timm's models lack them."""
