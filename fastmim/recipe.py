"""Everything that a config file imports: `from fastmim.recipe import ...`.

The JSON of a run folder may name the classes of this export list, and the user's own parts.
"""

from .config.base import Config, Data, Optim, Run, Train
from .config.change import change
from .config.classify import EMA, Augment, Finetune, Head, LabelledData, Probe
from .config.config_file import load
from .config.detect import RCNN, AnnotatedData, Detect
from .config.segment import MaskData, Segment, UPerNet
from .data.crops import CenterCrop, RandomResizedCrop, ScaleJitterCrop, SimpleResizedCrop
from .model.decoders import LinearHead, TransformerDecoder
from .model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from .model.losses import ComplexFocalL1, FocalFrequency, MaskedFocalL1, MaskedL1, MaskedL2, WithFourier
from .model.masking import BlockMasking, JointMasking, RandomMasking, UniformMasking
from .model.targets import LowPass, NormalizedPatches, Pixels

__all__ = [
    # Config files
    "change", "load",
    # Runs and their settings
    "Config", "Data", "Optim", "Run", "Train",
    "Finetune", "Probe", "LabelledData", "Head", "Augment", "EMA",
    "Detect", "AnnotatedData", "RCNN",
    "Segment", "MaskData", "UPerNet",
    # Parts
    "RandomMasking", "BlockMasking", "JointMasking", "UniformMasking",
    "ViT", "BEiT", "Swin", "ResNet", "ConvNeXt", "ConvMAE", "UMSwin", "UMPVT",
    "TransformerDecoder", "LinearHead",
    "Pixels", "NormalizedPatches", "LowPass",
    "MaskedL1", "MaskedL2", "MaskedFocalL1", "FocalFrequency", "ComplexFocalL1", "WithFourier",
    "RandomResizedCrop", "SimpleResizedCrop", "ScaleJitterCrop", "CenterCrop",
]  # fmt: skip
