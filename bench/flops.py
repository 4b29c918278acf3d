"""`python -m bench.flops CONFIG...`: FLOPs of one image's forward pass, of the published model and of ours.

Counted by torch from the operators that run (convolutions, matrix products, attention; a multiply-add is two), without
their weights. Utilisation is reckoned from ours: what is skipped is not credited.
"""

# May import fastmim and bench.

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula, sdpa_flop_count

from bench import published, trial
from fastmim.config import base as config
from fastmim.host.command import Parser, refusing
from fastmim.tasks import pretrain

TRAINING = 3
"""Forward and backward together, in forwards: each matrix product has two in its gradient."""

UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}
"""Formula of attention on a CPU, which torch's counter leaves out."""


@register_flop_formula(torch.ops.fastmim.window_attention)
def window_attention_flops(qkv: torch.Size, codes: torch.Size, table: torch.Size, num_heads: int, window, *_, **__):
    """Two products of every query with all keys, or values, of its window. (Other ops of ours are linear or small.)"""
    return 4 * qkv[:3].numel() * math.prod(window) * (qkv[3] // 3)


def per_image(build: Callable[[], nn.Module], call: Callable[[nn.Module, int], object]) -> int:
    """FLOPs that one more image adds to a forward pass: what is done once a batch is not counted.

    Args:
        build: makes the model on the default device.
        call: runs it on a batch of the given size.
    """
    with torch.device("meta"):
        model = build()
    try:
        # Tensors without contents that say they are on a CPU: autocast and the kernels' dispatch know no meta device.
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _per_image(model.to_empty(device="cpu"), call)
    except DynamicOutputShapeException:  # it picks by a mask, so the mask's values decide on shapes
        with torch.device("meta"):
            model = build()
        return _per_image(model.to_empty(device="cpu"), call)


def _per_image(model: nn.Module, call: Callable[[nn.Module, int], object]) -> int:
    totals = []
    for batch in (1, 2):
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counter, torch.no_grad():
            call(model, batch)
        totals.append(counter.get_total_flops())
    return totals[1] - totals[0]


def _images(cfg: config.Config, batch: int) -> tuple[Tensor, Tensor]:
    """uint8 images and their sample ids."""
    images = torch.zeros(batch, *cfg.data.size, cfg.data.image.channels, dtype=torch.uint8)
    return images, torch.arange(batch)


def ours(cfg: config.Config) -> int:
    """Forward FLOPs of our model, per image."""
    return per_image(lambda: pretrain.build(cfg), lambda model, batch: model(*_images(cfg, batch)))


def model_flops(cfg: config.Config) -> int:
    """Forward FLOPs of the published model, per image.

    Raises:
        ValueError: the config has no published form.
    """
    with torch.device("meta"):
        mim = pretrain.build(cfg)
        _, inputs = published.build(cfg)

    def call(model: nn.Module, batch: int) -> None:
        images, ids = _images(cfg, batch)
        model(images.permute(0, 3, 1, 2).float(), *inputs(mim.mask(ids)))

    return per_image(lambda: published.build(cfg)[0], call)


def main(argv: list[str] | None = None) -> None:
    parser = Parser("python -m bench.flops", __doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files of pre-training")
    args = parser.parse_args(argv)
    try:
        for path in args.configs:
            cfg = trial.load(path, [])
            whole, done = model_flops(cfg) / 1e9, ours(cfg) / 1e9
            print(f"{path}: {whole:.3f} GFLOP an image forward as published, {done:.3f} ours ({done / whole:.0%})")
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    with refusing("python -m bench.flops"):
        main()
