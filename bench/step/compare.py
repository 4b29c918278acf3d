"""Times a whole training step of fastmim and of the published code.

Both use the same weights, images and masks. The published code runs as it was published ("eager"), with torch's
attention ("sdpa"), and under each mode of torch.compile. The published code is channels-last and uses torch's fused
AdamW. A step is forward, backward and AdamW, in the same precision for all arms. The first arm takes turns with each
other arm; then the figures of both are printed and recorded.

On a GPU, memory is the peak above weights, gradients and optimizer state. On a CPU, memory is the size of the tensors
that the forward pass keeps for the backward pass. With `--pair CONFIG` the arms of a second config take turns too, and
their rows also hold time and memory relative to the first config.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

import fastmim_kernels
from bench import published
from bench.options import add_settings, command_parser
from bench.record import Record, record, relative
from bench.step import trial
from bench.timing import spread
from fastmim.config import base as config
from fastmim.engine import optim
from fastmim.host.command import at_least
from fastmim.tasks import pretrain

COMPILED = {
    "compile": "default",
    "compile-max-autotune": "max-autotune",
    "compile-reduce-overhead": "reduce-overhead",
}
"""Modes of torch.compile, by the names of their arms."""
ARMS = ("ours", "eager", "sdpa", *COMPILED)
WARMUP = 2
LEARNING_RATE = 1e-4


@dataclass
class Arm:
    """One way to train a config: a loss of a batch, with its model and its optimizer.

    Attributes:
        clip: gradient norm that `step` clips to; None for fastmim, whose optimizer clips.
        autocast: compute in bf16 with fp32 weights.
        seconds: time of each timed step.
        losses: loss of every step.
        peak: largest memory above weights, gradients and optimizer state in bytes; on a GPU only.
    """

    config: str
    name: str
    model: nn.Module
    loss: Callable[[Batch], Tensor]
    optimizer: torch.optim.Optimizer
    clip: float | None = None
    autocast: bool = False
    seconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    peak: int = 0

    def step(self, batch: Batch) -> float:
        """Runs one update, keeps its loss, and returns its time in seconds."""
        torch.manual_seed(len(self.losses))  # drop path then drops the same blocks in arms with the same draws
        synchronize()
        before = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
        if before:
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        with torch.autocast("cuda" if torch.cuda.is_available() else "cpu", torch.bfloat16, enabled=self.autocast):
            loss = self.loss(batch)
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        synchronize()
        seconds = time.perf_counter() - start
        if before and self.losses:  # the first step makes the optimizer's state
            gradients = sum(p.nbytes for p in self.model.parameters() if p.requires_grad)
            self.peak = max(self.peak, torch.cuda.max_memory_allocated() - before - gradients)
        self.losses.append(loss.item())
        return seconds


@dataclass(frozen=True)
class Batch:
    """One batch, in the forms of fastmim and of the published code.

    Attributes:
        images: (B, H, W, C) uint8, for fastmim.
        ids: (B,) int64 sample ids, from which the masks are drawn.
        pixels: the normalised images, (B, C, H, W) float32, for the published code.
        inputs: further inputs of the published code, such as masks.
    """

    images: Tensor
    ids: Tensor
    pixels: Tensor | None = None
    inputs: tuple[Tensor, ...] = ()

    def tensors(self) -> tuple[Tensor, ...]:
        """Returns all tensors of the batch."""
        return self.images, self.ids, *((self.pixels, *self.inputs) if self.pixels is not None else ())


def synchronize() -> None:
    """Waits until the GPU is done, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def build_arm(name: str, path: str, cfg: config.Config) -> Arm | None:
    """Returns an arm of a config, or None for "sdpa" if the published code has no attention.

    Args:
        name: one of `ARMS`.
        path: the config's file, which rows name.
        cfg: the config.

    Raises:
        ValueError: the config has no published form.
    """
    mim = pretrain.build(cfg)
    if name == "ours":
        optimizer = optim.AdamW(optim.parameter_groups(mim, cfg.optim), cfg.optim.betas, cfg.optim.eps, cfg.optim.clip)
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE
        return Arm(path, name, mim, lambda batch: mim(batch.images, batch.ids), optimizer)
    model, _ = published.build(cfg, "sdpa" if name == "sdpa" else "explicit")
    if name == "sdpa" and not any("Attention" in type(module).__name__ for module in model.modules()):
        return None
    published.copy_weights(model, mim)
    model.to(memory_format=torch.channels_last)
    groups = optim.parameter_groups(model, config.Optim(weight_decay=cfg.optim.weight_decay))
    optimizer = torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=cfg.optim.betas, eps=cfg.optim.eps, fused=True)
    run = torch.compile(model, mode=COMPILED[name]) if name in COMPILED else model

    def loss(batch: Batch) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()
        return run(batch.pixels, *batch.inputs)[0]

    return Arm(path, name, model, loss, optimizer, cfg.optim.clip)


def make_batches(cfg: config.Config, size: int, count: int, with_published: bool) -> list[Batch]:
    """Returns batches of random images for all arms of a config, made before the timed steps.

    Args:
        cfg: the config.
        size: images in a batch.
        count: number of batches.
        with_published: also make the inputs of the published code.
    """
    mim = pretrain.build(cfg)
    inputs = published.build(cfg)[1] if with_published else None
    generator = torch.Generator(device="cpu").manual_seed(cfg.train.seed)
    device = mim.objective.mean.device
    batches = []
    for step in range(count):
        shape = (size, *cfg.data.size, cfg.data.image.channels)
        images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator, device="cpu").to(device)
        ids = torch.arange(step * size, (step + 1) * size, device=device)
        if inputs is None:
            batches.append(Batch(images, ids))
            continue
        pixels = mim.objective.normalize(images).permute(0, 3, 1, 2)  # channels-last in memory
        batches.append(Batch(images, ids, pixels, inputs(mim.mask(ids))))
    return batches


def saved_bytes(arm: Arm, batch: Batch) -> int:
    """Returns the bytes kept for the backward pass, without parameters and the batch."""
    known = {t.untyped_storage().data_ptr() for t in (*arm.model.parameters(), *arm.model.buffers(), *batch.tensors())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = arm.loss(batch)
    total = sum(t.untyped_storage().nbytes() for address, t in kept.items() if address not in known)
    del loss
    return total


def take_turns(arms: list[Arm], batches: dict[str, list[Batch]]) -> None:
    """Runs one step of each arm for every batch, and times the steps after the warm-up.

    Args:
        arms: their `seconds` are replaced.
        batches: batches of each config, by its path.
    """
    for arm in arms:
        arm.seconds = []
    for number in range(len(batches[arms[0].config])):
        turn = number % len(arms)  # no arm always runs after the same other arm
        for arm in arms[turn:] + arms[:turn]:
            seconds = arm.step(batches[arm.config][number])
            if number >= WARMUP:
                arm.seconds.append(seconds)


def rows(arms: list[Arm], batches: dict[str, list[Batch]], setting: str) -> list[dict]:
    """Returns a row for every arm, with a comparison of the same arm of two configs.

    Args:
        arms: the arms, after `take_turns`.
        batches: batches of each config, by its path.
        setting: precision and batch, for the names of the cases.
    """
    first = arms[0].config
    memory = {}
    for arm in arms:
        images = len(batches[arm.config][0].ids)
        if arm.peak:
            memory[arm.config, arm.name] = {"peak MiB above weights, gradients, optimizer": arm.peak / 2**20}
        elif arm.name not in COMPILED:  # compiled code saves tensors that the hooks do not see
            saved = saved_bytes(arm, batches[arm.config][0])
            memory[arm.config, arm.name] = {"saved for backward MiB/image": saved / images / 2**20}
    medians = {(arm.config, arm.name): statistics.median(arm.seconds) for arm in arms}
    result = []
    for arm in arms:
        key, base = (arm.config, arm.name), (first, arm.name)
        of_config = [other for other in arms if other.config == arm.config]
        p20, p80 = spread(arm.seconds)
        row = {
            "case": f"{name(arm.config)}, {setting}, {arm.name}",
            "config": arm.config,
            "s/step": medians[key],
            "p20": p20,
            "p80": p80,
            "images/s": len(batches[arm.config][0].ids) / medians[key],
            # The first arm trains on while it takes turns with further arms, so the others have fewer losses.
            "loss differs": max(abs(a / b - 1) for a, b in zip(arm.losses, of_config[0].losses, strict=False)),
        } | memory.get(key, {})
        if (arm.config, "ours") in medians:
            row["ours is faster"] = medians[key] / medians[arm.config, "ours"]
        if arm.config != first and base in medians:
            row["base"] = name(first)
            row["time over base"] = medians[key] / medians[base]
            for figure, value in memory.get(key, {}).items():
                row["memory over base"] = value / memory[base][figure]
        result.append(row)
    return result


def name(path: str) -> str:
    """Returns METHOD/TASK/NAME of a config's path."""
    return path.removeprefix("configs/").removesuffix(".py")


def main(argv: list[str] | None = None) -> None:
    """Runs `python -m bench compare`."""
    parser = command_parser("compare", __doc__)
    parser.add_argument(
        "config",
        nargs="?",
        default="configs/mae/pretrain/vit_base_patch16_224_800ep.py",
        help="a config file of pre-training (default: %(default)s)",
    )
    parser.add_argument("--pair", metavar="CONFIG", help="a second config, compared with the first arm by arm")
    parser.add_argument("--batch", type=at_least(1), default=8, help="images per step (default 8)")
    parser.add_argument(
        "--steps", type=at_least(1), default=10, help="timed steps of each arm, after 2 of warm-up (default 10)"
    )
    parser.add_argument("--arms", default=",".join(ARMS), help=f"some of {','.join(ARMS)} (default all)")
    parser.add_argument("--precision", choices=("fp32", "autocast"), default="fp32", help="of all arms (default fp32)")
    parser.add_argument(
        "--keep-memory", action="store_true", help="give all arms the allocator setting that training uses on a CPU"
    )
    add_settings(parser, "settings that replace those of the config, or of both")
    parser.add_argument("--record", action=Record)
    args = parser.parse_args(argv)
    names = args.arms.split(",")
    if unknown := [name for name in names if name not in ARMS]:
        parser.error(f"--arms: expected some of {','.join(ARMS)}, got {unknown[0]!r}")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if args.keep_memory:
        fastmim_kernels.keep_freed_memory()
    fastmim_kernels.require({"cuda": "triton", "cpu": "cpp"}[device])
    configs, batches = {}, {}
    try:
        for given in filter(None, (args.config, args.pair)):
            cfg, path = trial.load(given, args.set), relative(Path(given).resolve())
            configs[path] = cfg
            with torch.device(device):
                batches[path] = make_batches(cfg, args.batch, args.steps + WARMUP, names != ["ours"])
    except ValueError as error:
        parser.error(str(error))
    setting = f"{args.precision}, batch {args.batch}" + (", memory kept" if args.keep_memory else "")

    def build(name: str) -> list[Arm]:
        with torch.device(device):
            arms = [build_arm(name, path, cfg) for path, cfg in configs.items()]
        for arm in filter(None, arms):
            arm.autocast = args.precision == "autocast"
        return list(filter(None, arms))

    def report(arms: list[Arm], new: list[str]) -> None:
        """Prints and records the figures of the arms in `new`."""
        for row, arm in zip(rows(arms, batches, setting), arms, strict=True):
            if arm.name in new:
                figures = (f"{key}: {value:.4g}" for key, value in row.items() if isinstance(value, float))
                print(", ".join([row["case"], device.upper(), *figures]), flush=True)
                if args.record:
                    record(row | {"device": device}, "step")

    first, new = build(names[0]), names[:1]
    for other in names[1:]:
        try:
            arms = build(other)
            if not arms:
                continue
            arms = sorted([*first, *arms], key=lambda arm: list(configs).index(arm.config))
            take_turns(arms, batches)
        except Exception as error:
            if other not in COMPILED:
                raise
            print(f"{other} does not run: {' '.join(str(error).split())[:300]}", flush=True)
            continue
        finally:
            torch.compiler.reset()  # compiled code holds memory
        report(arms, [*new, other])
        new = []
    if new:
        take_turns(first, batches)
        report(first, new)
