"""Counts the FLOPs of one image's forward pass, in the published model and in fastmim's.

torch counts convolutions, matrix products and attention on models without weights. A multiply-add counts as two FLOPs.
The other benchmarks compute utilisation from fastmim's count, so skipped work does not raise the utilisation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode, register_flop_formula, sdpa_flop_count

from bench import published
from bench.options import add_configs, command_parser
from bench.step import trial
from fastmim.config import base as config
from fastmim.tasks import pretrain

TRAINING = 3
"""FLOPs of forward and backward pass together, in forward passes.

The gradient of each matrix product takes two products.
"""

UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v)
}
"""FLOPs of attention on a CPU, which torch's counter lacks."""


@register_flop_formula(torch.ops.fastmim.window_attention)
def window_attention_flops(qkv: torch.Size, codes: torch.Size, table: torch.Size, num_heads: int, window, *_, **__):
    """Returns the FLOPs of fastmim's window attention.

    In a window, each query is multiplied with all keys, then with all values. fastmim's other ops are linear or small,
    and are not counted.
    """
    return 4 * qkv[:3].numel() * math.prod(window) * (qkv[3] // 3)


def per_image(build: Callable[[], nn.Module], call: Callable[[nn.Module, int], object]) -> int:
    """Returns the FLOPs that one more image adds to a forward pass, without the work done once a batch.

    Args:
        build: makes the model on the default device.
        call: runs the model on a batch of the given size.
    """
    with torch.device("meta"):
        model = build()
    try:
        # Fake CPU tensors, because autocast and the kernels' dispatch do not support the meta device.
        with FakeTensorMode(allow_non_fake_inputs=True):
            return _per_image(model.to_empty(device="cpu"), call)
    except DynamicOutputShapeException:  # the model indexes by a mask, so shapes depend on the mask's values
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
    """Returns black images, (batch, H, W, C) uint8, and their sample ids."""
    images = torch.zeros(batch, *cfg.data.size, cfg.data.image.channels, dtype=torch.uint8)
    return images, torch.arange(batch)


def ours(cfg: config.Config) -> int:
    """Returns the forward FLOPs of fastmim's model, per image."""
    return per_image(lambda: pretrain.build(cfg), lambda model, batch: model(*_images(cfg, batch)))


def model_flops(cfg: config.Config) -> int:
    """Returns the forward FLOPs of the published model, per image.

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
    """Runs `python -m bench flops`."""
    parser = command_parser("flops", __doc__)
    add_configs(parser)
    args = parser.parse_args(argv)
    try:
        for path in args.configs:
            cfg = trial.load(path, [])
            whole, done = model_flops(cfg) / 1e9, ours(cfg) / 1e9
            print(f"{path}: {whole:.3f} GFLOP an image forward as published, {done:.3f} ours ({done / whole:.0%})")
    except ValueError as error:
        parser.error(str(error))
