"""Optimisation: learning-rate rule, parameter groups, and the optimizers that run at ZeRO stage 0.

May import torch and config only; layerwise where LAMB or LARS is asked for.
"""

from __future__ import annotations

import difflib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from . import config


def learning_rate(optim: config.Optim, train: config.Train, epoch: float) -> float:
    """Learning rate at a (fractional) epoch: linear warm-up, then half a cosine or a line down to `min_lr`, or steps.

    lr_max = blr * global_batch / lr_batch; epoch e, warm-up W, end E. Below W: warmup_lr + (lr_max - warmup_lr) e / W.
    Then, for "cosine": min_lr + (lr_max - min_lr) * (1 + cos(pi * (e - S) / (E - S))) / 2 with S = W for `cosine_from`
    "warmup" (MAE, util/lr_sched.py) and S = 0 for "start" (SimMIM: timm's scheduler without its `warmup_prefix`); for
    "linear" 1 - (e - S) / (E - S) in place of the cosine's factor (MMSegmentation's "poly" of power 1); for
    "multistep": lr_max, times decay_rate for each of `decay_epochs` that has come.
    """
    lr_max = optim.blr * train.global_batch / optim.lr_batch
    warmup = optim.warmup_epochs
    if epoch < warmup:
        return optim.warmup_lr + (lr_max - optim.warmup_lr) * epoch / warmup
    if optim.schedule == "multistep":
        return lr_max * optim.decay_rate ** sum(epoch >= decay for decay in optim.decay_epochs)
    start = warmup if optim.cosine_from == "warmup" else 0.0
    progress = (epoch - start) / (train.epochs - start) if train.epochs > start else 1.0
    left = 1.0 - progress if optim.schedule == "linear" else 0.5 * (1.0 + math.cos(math.pi * progress))
    return optim.min_lr + (lr_max - optim.min_lr) * left


def parameter_groups(module: nn.Module, optim: config.Optim) -> list[dict]:
    """Groups of the trained parameters: no decay for 1-D parameters and biases, decay for all others.

    The rule of timm's `param_groups_weight_decay`, which MAE uses: class and mask tokens, being 3-D, decay.
    `optim.no_decay`, `optim.decay` and `optim.lr_scale` name what departs from it. With `optim.layer_decay` d, what is
    in layer i of the encoder's n (see `Encoder.layers`) has the factor d ** (n - i), and what is in none has 1 (BEiT's
    rule, which MAE and SimMIM use); `optim.lr_scale` comes on top.

    Returns: groups with "params", "names" (in the same order), "weight_decay" and "lr_scale", the factor of their
        learning rate; empty groups are left out.
    Raises:
        ValueError: a pattern that no trained parameter matches; a parameter that shall both decay and not decay.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    spared, decayed = _matches("no_decay", optim.no_decay, named), _matches("decay", optim.decay, named)
    if both := sorted(spared & decayed):
        raise ValueError(f"optim.no_decay and optim.decay both match {both[0]}: make one of the patterns narrower")
    scales = dict.fromkeys(named, 1.0)
    for pattern, factor in optim.lr_scale:
        scales |= dict.fromkeys(_matches("lr_scale", (pattern,), named), factor)
    if optim.layer_decay < 1:
        scales = {name: scales[name] * scale for name, scale in _layer_scales(module, named, optim.layer_decay).items()}
    groups: dict[tuple[float, bool], list[str]] = {}
    for name, p in named.items():
        plain = p.ndim <= 1 or name.endswith(".bias")
        groups.setdefault((scales[name], name in decayed or not (plain or name in spared)), []).append(name)
    return [
        {
            "params": [named[name] for name in names],
            "names": names,
            "weight_decay": optim.weight_decay if decays else 0.0,
            "lr_scale": scale,
        }
        for (scale, decays), names in sorted(groups.items(), reverse=True)
    ]


def _layer_scales(module: nn.Module, names: Iterable[str], decay: float) -> dict[str, float]:
    """The factor of each parameter's learning rate that its layer of `module.encoder` gives it."""
    layers = [tuple(f"encoder.{prefix}" for prefix in layer) for layer in module.encoder.layers()]
    scales = dict.fromkeys(names, 1.0)
    for i, layer in enumerate(layers):
        inside = [name for name in scales if any(f"{name}.".startswith(f"{prefix}.") for prefix in layer)]
        scales |= dict.fromkeys(inside, decay ** (len(layers) - i))
    return scales


def _matches(field: str, patterns: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """The names in which any of the patterns is found."""
    found = set()
    for pattern in patterns:
        matching = {name for name in names if re.search(pattern, name)}
        if not matching:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise ValueError(f"optim.{field}: {pattern!r} is in no trained parameter's name; nearest: {near[0]}")
        found |= matching
    return found


def create_state(optimizer: torch.optim.AdamW, tensors: list[Tensor]) -> None:
    """Gives every tensor its zero moments now, so that they can be saved and loaded before the first step."""
    for tensor in tensors:
        optimizer.state[tensor] = {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
            "exp_avg": torch.zeros_like(tensor, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(tensor, requires_grad=False),
        }


class Stage0(torch.optim.Optimizer, ABC):
    """What the optimizers of ZeRO stage 0 share: fp32 masters, clipping, loss scaling and skips, all on the device.

    With loss scale s (1 without `loss_scaling`) and gradients g of s * loss: norm = |g| / s; each gradient is
    divided by s * max(1, (norm + 1e-6) / clip); a non-finite norm leaves masters, moments and step counters untouched.
    bf16 parameters accumulate their gradients in fp32 and are rounded from their fp32 master after each step.

    Args:
        groups: from `parameter_groups`.
        clip: global gradient norm above which gradients are scaled down; None = no clipping.
        loss_scaling: keep a dynamic loss scale (fp16): halved at each overflow, doubled after 2000 steps without one.
        settings: the optimizer's own.

    Attributes:
        moments: names in `state` of what is kept for each master beside itself.
        grad_norm: () fp32, global norm of the last step's gradients, before clipping.
        found_inf: () fp32, 1 if the last step was skipped, else 0.
        loss_scale: () fp32; multiply the loss by it before the backward pass.
        growth: () int32, steps since the loss scale last changed.
    """

    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")

    def __init__(self, groups: list[dict], clip: float | None = None, loss_scaling: bool = False, **settings: Any):
        self.parameters: dict[str, nn.Parameter] = {}
        self.masters: dict[str, nn.Parameter] = {}
        for group in groups:
            for name, p in zip(group["names"], group["params"], strict=True):
                self.parameters[name] = p
                self.masters[name] = p
                if p.dtype != torch.float32:
                    p.grad_dtype = torch.float32
                    self.masters[name] = nn.Parameter(p.detach().float())
        groups = [{**group, "params": [self.masters[name] for name in group["names"]]} for group in groups]
        super().__init__(groups, lr=0.0, **settings)
        self.clip = clip
        self.loss_scaling = loss_scaling
        device = next(iter(self.masters.values())).device
        self.grad_norm = torch.zeros((), device=device)
        self.found_inf = torch.zeros((), device=device)
        self.loss_scale = torch.full((), 2.0**16 if loss_scaling else 1.0, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)

    @abstractmethod
    def steps(self) -> list[Tensor]:
        """The counters of updates done, which may be set."""

    @abstractmethod
    def update(self) -> None:
        """Moves masters and moments by the masters' gradients, each first divided by `grad_scale`."""

    def copy_to_parameters(self) -> None:
        """Rounds the masters into the parameters that are not their own master."""
        pairs = [(p, self.masters[name]) for name, p in self.parameters.items() if p is not self.masters[name]]
        if pairs:
            torch._foreach_copy_([p.detach() for p, _ in pairs], [m.detach() for _, m in pairs])

    @torch.no_grad()
    def step(self) -> None:
        """One update from the parameters' gradients, which are consumed; see the class."""
        for name, p in self.parameters.items():
            if p is not self.masters[name]:
                self.masters[name].grad, p.grad = p.grad, None
        grads = [m.grad for m in self.masters.values() if m.grad is not None]
        self.grad_norm = torch.nn.utils.get_total_norm(grads) / self.loss_scale
        self.found_inf = (~torch.isfinite(self.grad_norm)).float()
        self.grad_scale = self.loss_scale.clone()
        if self.clip is not None:
            self.grad_scale *= ((self.grad_norm + 1e-6) / self.clip).clamp_(min=1.0)
        self.update()
        for m in self.masters.values():
            m.grad = None
        self.copy_to_parameters()
        if self.loss_scaling:
            torch._amp_update_scale_(self.loss_scale, self.growth, self.found_inf, 2.0, 0.5, 2000)


class AdamW(Stage0, torch.optim.AdamW):
    """torch's fused AdamW, which divides and skips by itself: nothing waits for the device."""

    def __init__(
        self,
        groups: list[dict],
        betas: tuple[float, float],
        eps: float,
        clip: float | None = None,
        loss_scaling: bool = False,
    ):
        super().__init__(groups, clip, loss_scaling, betas=betas, eps=eps, fused=True)
        create_state(self, list(self.masters.values()))

    def steps(self) -> list[Tensor]:
        return [state["step"] for state in self.state.values()]

    def update(self) -> None:
        torch.optim.AdamW.step(self)


class Sgd(Stage0, torch.optim.SGD):
    """torch's fused SGD with momentum; weight decay is added to the gradient. It divides and skips by itself."""

    moments = ("momentum_buffer",)

    def __init__(self, groups: list[dict], **settings: Any):
        super().__init__(groups, fused=True, **settings)
        for master in self.masters.values():
            self.state[master]["momentum_buffer"] = torch.zeros_like(master, requires_grad=False)
        self.count = torch.zeros((), device=self.found_inf.device)

    def steps(self) -> list[Tensor]:
        return [self.count]

    def update(self) -> None:
        torch.optim.SGD.step(self)
        self.count += 1 - self.found_inf


def stage0(groups: list[dict], optim: config.Optim, loss_scaling: bool) -> Stage0:
    """The optimizer that `optim.algorithm` names."""
    settings: dict[str, Any] = {"clip": optim.clip, "loss_scaling": loss_scaling}
    adam = {"betas": optim.betas, "eps": optim.eps}
    if optim.algorithm == "adamw":
        return AdamW(groups, **settings, **adam)
    if optim.algorithm == "sgd":
        return Sgd(groups, **settings, momentum=optim.momentum)
    from .layerwise import Lamb, Lars

    if optim.algorithm == "lamb":
        return Lamb(groups, **settings, **adam)
    return Lars(groups, **settings, momentum=optim.momentum)
