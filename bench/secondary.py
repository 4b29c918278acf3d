"""Secondary masking two ways: replace tokens of all gathered patches, as `UMPyramid` does, or gather the others only.

    python -m bench.secondary --batch 64 --record

Times the embedding of UM-MAE's Swin-T at 256 pixels, forward and backward, interleaved.
"""

# May import fastmim, fastmim_kernels, bench.ops and bench.record.

from __future__ import annotations

import statistics
from collections.abc import Callable

import torch
from torch import Tensor

from bench.ops import add_device, measure
from bench.record import Record, record
from fastmim.host.command import Parser, at_least, refusing
from fastmim.model.encoders.um_pyramid import PATCH, TOKEN
from fastmim.model.encoders.um_swin import UMSwin
from fastmim.model.masking import UniformMasking
from fastmim.parts import ImageSpec
from fastmim_kernels import keep_freed_memory, mask_token, unshuffle


def ways(batch: int, device: str) -> dict[str, Callable[[], Tensor]]:
    """Name -> the embedded map (B, 32, 32, D) of one batch, the same of both."""
    masking = UniformMasking()
    spec = UMSwin(depths=(1, 1, 1, 1))
    encoder = spec.build(ImageSpec((256, 256), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)), masking).to(device)
    images = torch.randint(0, 256, (batch, 256, 256, 3), dtype=torch.uint8, device=device)
    mask = masking(0, torch.arange(batch, device=device), encoder.grid, PATCH)
    rows, side = mask.grid[0] // 2, PATCH // TOKEN
    num_kept = int((~mask.secondary[0]).sum())

    def token() -> Tensor:
        return encoder.patch_embed.norm(encoder.vis_mask_token)

    def replace_tokens() -> Tensor:
        x = encoder.embed(images, mask.ids_keep, rows)
        return mask_token(x, mask.secondary.view(-1, rows, rows), token()[0, 0])

    def gather_kept() -> Tensor:
        order = mask.secondary.byte().argsort(dim=1, stable=True)
        x = encoder.embed(images, mask.ids_keep.gather(1, order[:, :num_kept]), 1).reshape(batch, num_kept, -1)
        one = token().expand(1, side * side, -1).reshape(1, 1, -1)
        x = unshuffle(x, one, one.new_zeros(1, rows * rows, x.shape[2]), order, raster=True)
        x = x.view(batch, rows, rows, side, side, -1).transpose(2, 3)
        return x.reshape(batch, rows * side, rows * side, -1)

    return {"tokens replaced": replace_tokens, "others gathered": gather_kept}


def main(argv: list[str] | None = None) -> None:
    parser = Parser("python -m bench.secondary", __doc__)
    parser.add_argument("--batch", type=at_least(1), default=64, help="images (default: 64)")
    parser.add_argument("--samples", type=at_least(2), default=20, help="timed calls of each (default: 20)")
    add_device(parser)
    parser.add_argument("--record", action=Record)
    args = parser.parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    keep_freed_memory()
    found = ways(args.batch, args.device)
    grad = torch.randn_like(found["tokens replaced"]())
    runs = {name: (lambda: None, lambda _, way=way: way().backward(grad)) for name, way in found.items()}
    for name, times in measure(runs, args.samples, args.device).items():
        p20, _, _, p80 = statistics.quantiles(times, n=5)
        row = {"p20_ms": p20, "p50_ms": statistics.median(times), "p80_ms": p80}
        print(f"{name:<20}" + "  ".join(f"{key} {value:.3f}" for key, value in row.items()))
        if args.record:
            case = f"um swin_t/256 embedding, {name}, batch {args.batch}"
            record({"case": case, "device": args.device, "samples": args.samples} | row, "secondary")


if __name__ == "__main__":
    with refusing("python -m bench.secondary"):
        main()
