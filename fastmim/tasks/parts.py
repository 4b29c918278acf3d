"""Parts of configs: every class that a run folder's config.json may name, and the module of a pre-training run.

May import L3 and below.
"""

from __future__ import annotations

import torch

from ..config import base as config
from ..config import classify as transfer
from ..config import detect as detection
from ..config import segment as segmentation
from ..config.base import Config
from ..data import crops
from ..model import decoders, encoders, losses, masking, targets
from ..model.mim import MIM
from ..model.objective import Objective
from ..parts import Crop, Decoder, Encoder, Loss, Masking, Target

BASES = (Masking, Encoder, Decoder, Target, Loss, Crop)
MODULES = (masking, encoders, decoders, targets, losses, crops)
PARTS = (
    config.Config, config.Data, config.Optim, config.Run, config.Train,
    transfer.Finetune, transfer.Probe, transfer.LabelledData, transfer.Head, transfer.Augment, transfer.EMA,
    detection.Detect, detection.AnnotatedData, detection.RCNN,
    segmentation.Segment, segmentation.MaskData, segmentation.UPerNet,
    *(part for module in MODULES for part in vars(module).values()
      if isinstance(part, type) and issubclass(part, BASES) and part not in BASES),
)  # fmt: skip
PRETRAINING_ONLY = {"mask_token", "mask_gamma", "vis_mask_token"}
"""Parameters of an encoder that whole images do not need, and timm's models have not, by the last part of their names.
"""


def build(config: Config) -> MIM:
    """The module of a config, initialised from its seed on the default device.

    Raises:
        ValueError: not a pre-training run; parts that do not fit each other or the image size.
    """
    if not isinstance(config, Config):
        raise ValueError(f"expected a pre-training config (Config), got {type(config).__name__}")
    torch.manual_seed(config.train.seed)
    data = config.data
    encoder = config.encoder.build(data.image, config.masking)
    decoder = config.decoder.build(encoder)
    if problem := config.loss.misfit(data.size):
        raise ValueError(problem)
    objective = Objective(config.target, config.loss, encoder.patch_size, data.image)
    mim = MIM(config.masking, encoder, decoder, objective, config.train.seed)
    one = torch.zeros(1, dtype=torch.int64, device="cpu")
    config.masking(config.train.seed, one, encoder.grid, encoder.patch_size)  # refuses a ratio that cannot be
    encoder.grad_checkpointing = decoder.grad_checkpointing = config.train.activation_checkpointing
    return mim
