"""Pre-training: from a config to a module, its figures on held-out images, and its encoder in timm's format.

May import L3 and below.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..config import Config, Data, Optim, Run, Train
from ..data.crops import CenterCrop, RandomResizedCrop
from ..decoders import TransformerDecoder
from ..encoders.vit import ViT
from ..losses import MaskedL1, MaskedL2
from ..masking import RandomMasking
from ..mim import MIM
from ..objective import Objective
from ..targets import NormalizedPatches, Pixels
from ..tokens import Mask, sample_id

# Every class that a run folder's config.json may name.
PARTS = (
    Config, Data, Optim, Run, Train, CenterCrop, RandomResizedCrop, TransformerDecoder, ViT, MaskedL1, MaskedL2,
    RandomMasking, NormalizedPatches, Pixels,
)  # fmt: skip


def build(config: Config) -> MIM:
    """The module of a config, initialised from its seed on the default device.

    Raises:
        ValueError: parts that do not fit each other or the image size.
    """
    torch.manual_seed(config.train.seed)
    data = config.data
    encoder = config.encoder.build(data.size, data.mean, data.std)
    decoder = config.decoder.build(encoder)
    objective = Objective(config.target, config.loss, encoder.patch_size, data.mean, data.std)
    mim = MIM(config.masking, encoder, decoder, objective, config.train.seed)
    config.masking(config.train.seed, torch.zeros(1, dtype=torch.int64), encoder.grid)  # refuses a ratio that cannot be
    encoder.grad_checkpointing = decoder.grad_checkpointing = config.train.activation_checkpointing
    return mim


def total_steps(config: Config, images: int) -> int:
    """Updates in a run over `images` training images.

    Raises:
        ValueError: fewer images are seen in the whole run than one update needs.
    """
    seen = config.train.epochs * images * config.data.repeats
    if seen < config.train.global_batch:
        raise ValueError(
            f"train.epochs={config.train.epochs} over {images} images shows {seen:.0f} samples, fewer than one update of "
            f"train.global_batch={config.train.global_batch}: raise the epochs or lower the batch"
        )
    return int(seen // config.train.global_batch)


@dataclass(frozen=True)
class HeldOut:
    """Images that training never sees, with masks that never change.

    images: (B, H, W, C) uint8. mask: of those images.
    """

    images: Tensor
    mask: Mask

    @staticmethod
    def draw(mim: MIM, images: Tensor, index: Tensor) -> HeldOut:
        """Draws the masks that the images at these manifest indices would have in epoch 0."""
        return HeldOut(images, mim.mask(sample_id(index, 0).to(images.device)))

    def first(self, count: int) -> HeldOut:
        """The first `count` images."""
        return HeldOut(self.images[:count], Mask(self.mask.ids[:count], self.mask.num_keep, self.mask.grid))

    @torch.no_grad()
    def predict(self, mim: MIM, batch: int) -> Tensor:
        """(B, L - K, P) predictions, `batch` images at a time."""
        ids = self.mask.ids.split(batch)
        masks = [Mask(i, self.mask.num_keep, self.mask.grid) for i in ids]
        return torch.cat([mim.predict(x, m) for x, m in zip(self.images.split(batch), masks, strict=True)])

    @torch.no_grad()
    def loss(self, mim: MIM, pred: Tensor) -> float:
        """The training loss of these predictions."""
        return mim.objective(pred, self.images, self.mask).item()


def export_encoder(config: Config, mim_state: dict[str, Tensor], folder: Path) -> Path:
    """Writes the encoder as timm's hub format (model.safetensors, config.json) and checks it by loading it.

    Args:
        mim_state: fp32 tensors of the whole module by name, as checkpoints hold them.
    Raises:
        RuntimeError: timm's copy does not give bit-equal features.
    """
    mim = build(config)
    mim.load_state_dict(mim_state)
    encoder = mim.encoder.eval()
    folder.mkdir(parents=True, exist_ok=True)
    weights = {k: v.contiguous() for k, v in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    height, width = config.data.size
    description = {
        "architecture": config.encoder.name,
        "num_classes": 0,
        "num_features": encoder.embed_dim,
        "global_pool": "token",
        "model_args": config.encoder.model_args() | {"img_size": [height, width], "in_chans": len(config.data.mean)},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [len(config.data.mean), height, width],
            "interpolation": "bicubic",
            "mean": list(config.data.mean),
            "std": list(config.data.std),
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    (folder / "config.json").write_text(json.dumps(description, indent=2) + "\n")

    copy = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True).eval()
    images = torch.randn(2, len(config.data.mean), height, width, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, theirs = encoder.features(images), copy.forward_features(images)
    if not torch.equal(ours, theirs):
        difference = (ours - theirs).abs().max().item()
        raise RuntimeError(f"{folder}: timm loads the export with other features (largest difference {difference:.3g})")
    return folder
