"""`python -m bench.compare [CONFIG]`: a whole MAE training step, ours against the published way, from one run.

Ours, the published way as it is (explicit attention), with SDPA, and under torch.compile: same weights, images and
masks, one precision, forward, backward and AdamW, one step of each in turn. May import fastmim and bench.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

import fastmim_kernels
from bench.published.mae import MaskedAutoencoder, official_name
from bench.record import record
from fastmim import config, optim
from fastmim.mim import MIM
from fastmim.tasks import pretrain
from fastmim.tokens import Stream
from fastmim_kernels import philox

ARMS = ("ours", "eager", "sdpa", "compile")
WARMUP = 2
LEARNING_RATE = 1e-4


@dataclass
class Arm:
    """One way to train: `loss(images, pixels, ids, noise)`, its parameters and its optimizer."""

    name: str
    model: nn.Module
    loss: Callable[..., Tensor]
    optimizer: torch.optim.Optimizer
    autocast: bool = False
    """bf16 compute, fp32 weights."""
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0
    """CUDA only: bytes of the peak above weights and optimizer state."""

    def step(self, batch: tuple[Tensor, ...]) -> float:
        """Runs one update, keeps its loss, and returns its time in seconds."""
        synchronize()
        before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        if before:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.loss(*batch)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronize()
        seconds = time.perf_counter() - start
        if before:
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - before)
        self.losses.append(loss.item())
        return seconds


def synchronize() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def published(mim: MIM, norm_pix: bool, mask_ratio: float, attention: str) -> MaskedAutoencoder:
    """The published model of the sizes, and with a copy of the weights, of ours."""
    encoder, decoder = mim.encoder, mim.decoder
    model = MaskedAutoencoder(
        img_size=encoder.grid[0] * encoder.patch_size,
        patch_size=encoder.patch_size,
        embed_dim=encoder.embed_dim,
        depth=len(encoder.blocks),
        num_heads=encoder.blocks[0].attn.num_heads,
        decoder_embed_dim=decoder.embed.out_features,
        decoder_depth=len(decoder.blocks),
        decoder_num_heads=decoder.blocks[0].attn.num_heads,
        norm_pix_loss=norm_pix,
        mask_ratio=mask_ratio,
        attention=attention,
    )
    model.load_state_dict({official_name(k): v for k, v in mim.state_dict().items()}, strict=True)
    return model


def build_arm(name: str, cfg: config.Config) -> Arm:
    """
    Raises:
        ValueError: the config is not MAE's: random masking, a ViT with class token, a transformer decoder, L2.
    """
    mim = pretrain.build(cfg)
    kinds = [type(part).__name__ for part in (cfg.masking, cfg.encoder, cfg.decoder, cfg.loss)]
    if kinds != ["RandomMasking", "ViT", "TransformerDecoder", "MaskedL2"] or cfg.data.size[0] != cfg.data.size[1]:
        raise ValueError(f"the published way is here for MAE on square images; the config has {', '.join(kinds)}")
    if name == "ours":
        groups = optim.parameter_groups(mim, cfg.optim)
        optimizer = optim.AdamW(groups, cfg.optim.betas, cfg.optim.eps, cfg.optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        return Arm(name, mim, lambda images, pixels, ids, noise: mim(images, ids), optimizer)
    norm_pix = type(cfg.target).__name__ == "NormalizedPatches"
    model = published(mim, norm_pix, cfg.masking.ratio, "sdpa" if name == "sdpa" else "explicit")
    groups = optim.parameter_groups(model, config.Optim(weight_decay=cfg.optim.weight_decay))
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=cfg.optim.betas, eps=cfg.optim.eps)
    run = torch.compile(model) if name == "compile" else model
    return Arm(name, model, lambda images, pixels, ids, noise: run(pixels, noise)[0], optimizer)


def make_batches(mim: MIM, cfg: config.Config, size: int, count: int) -> list[tuple[Tensor, ...]]:
    """(uint8 images, the same as normalised NCHW floats, ids, the noise that gives the published way our masks).

    What the published way's loader would have done, normalising and turning to NCHW, is not timed.
    """
    grid = mim.encoder.grid
    generator = torch.Generator(device="cpu").manual_seed(cfg.train.seed)
    device = mim.encoder.cls_token.device
    batches = []
    for step in range(count):
        images = torch.randint(0, 256, (size, *cfg.data.size, 3), dtype=torch.uint8, generator=generator).to(device)
        pixels = mim.objective.normalize(images).permute(0, 3, 1, 2).contiguous()
        ids = torch.arange(step * size, (step + 1) * size, device=device)
        batches.append((images, pixels, ids, philox(cfg.train.seed, Stream.MASK, ids, grid[0] * grid[1])))
    return batches


def saved_bytes(arm: Arm, batch: tuple[Tensor, ...]) -> int:
    """Bytes that the forward pass keeps for the backward pass: distinct storages, parameters and batch apart."""
    known = {t.untyped_storage().data_ptr() for t in (*arm.model.parameters(), *arm.model.buffers(), *batch)}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = arm.loss(*batch)
    total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in known)
    del loss
    return total


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.compare", description=__doc__)
    parser.add_argument("config", nargs="?", default="configs/mae/pretrain/vit_base_patch16_224_800ep.py")
    parser.add_argument("--batch", type=int, default=8, help="images per step (default 8)")
    parser.add_argument(
        "--steps", type=int, default=10, help="timed steps of each arm, after 2 of warm-up (default 10)"
    )
    parser.add_argument("--arms", default=",".join(ARMS), help=f"which, of {','.join(ARMS)} (default all)")
    parser.add_argument("--precision", choices=("fp32", "autocast"), default="fp32", help="of all arms (default fp32)")
    parser.add_argument(
        "--keep-memory", action="store_true", help="all arms with the allocator setting that ours trains with on a CPU"
    )
    parser.add_argument("--record", action="store_true", help="append the rows to bench/results")
    args = parser.parse_args(argv)
    names = args.arms.split(",")
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"--arms: expected some of {','.join(ARMS)}, got {unknown[0]!r}")
    if min(args.batch, args.steps) < 1:
        parser.error(f"--batch, --steps: expected at least 1, got {args.batch} and {args.steps}")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.keep_memory:
        fastmim_kernels.keep_freed_memory()
    fastmim_kernels.require({"cuda": "triton", "cpu": "cpp"}[device])
    try:
        cfg = config.load(args.config)
        with torch.device(device):
            arms = [build_arm(name, cfg) for name in names]
            mim = pretrain.build(cfg)
        for arm in arms:
            arm.autocast = args.precision == "autocast"
    except ValueError as error:
        parser.error(str(error))
    batches = make_batches(mim, cfg, args.batch, args.steps + WARMUP)
    for number, batch in enumerate(batches):
        turn = number % len(arms)  # no arm always runs behind the same other one
        for arm in arms[turn:] + arms[:turn]:
            seconds = arm.step(batch)
            if number >= WARMUP:
                arm.seconds.append(seconds)

    medians = {arm.name: statistics.median(arm.seconds) for arm in arms}
    memory = ", memory kept" if args.keep_memory else ""
    run = f"{args.config.rsplit('/', 1)[-1].removesuffix('.py')}, {args.precision}, batch {args.batch}{memory}"
    for arm in arms:
        p20, _, _, p80 = statistics.quantiles(arm.seconds, n=5) if args.steps > 1 else arm.seconds * 4
        row = {
            "case": f"{run}, {arm.name}",
            "s/step": medians[arm.name],
            "p20": p20,
            "p80": p80,
            "images/s": args.batch / medians[arm.name],
            "ours is faster": medians[arm.name] / medians["ours"] if "ours" in medians else None,
            "saved MiB/image": saved_bytes(arm, batches[0]) / args.batch / 2**20 if arm.name != "compile" else None,
            "peak MiB": arm.peak / 2**20 if device == "cuda" else None,
            "loss differs": max(abs(a / b - 1) for a, b in zip(arm.losses, arms[0].losses, strict=True)),
        }
        row = {key: value for key, value in row.items() if value is not None}
        print(
            ", ".join(f"{key}: {value:.4g}" if isinstance(value, float) else str(value) for key, value in row.items())
        )
        if args.record:
            record(row | {"device": device}, "step")


if __name__ == "__main__":
    main()
