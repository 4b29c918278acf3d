"""Learning-rate rule, parameter groups, and the choice of the optimizer at ZeRO stage 0."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from ..config.base import Optim, Train
from .stage0 import AdamW, Sgd, Stage0Optimizer


def learning_rate(optim: Optim, train: Train, epoch: float) -> float:
    """Returns the learning rate at an epoch, which may be a fraction.

    lr_max = blr * global_batch / lr_batch. With epoch e, warm-up W and end E, the rate is:

    - below W: warmup_lr + (lr_max - warmup_lr) * e / W;
    - "cosine": min_lr + (lr_max - min_lr) * (1 + cos(pi * (e - S) / (E - S))) / 2, with S = W for `cosine_from`
      "warmup" (MAE, util/lr_sched.py) and S = 0 for "start" (SimMIM: timm's scheduler without `warmup_prefix`);
    - "linear": min_lr + (lr_max - min_lr) * (1 - (e - S) / (E - S)) (MMSegmentation's "poly" of power 1);
    - "multistep": lr_max * decay_rate ** n, where n is the number of `decay_epochs` up to e.
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


def parameter_groups(module: nn.Module, optim: Optim) -> list[dict]:
    """Groups the trained parameters by weight decay and learning rate.

    1-D parameters and biases do not decay; all others do. This is the rule of timm's `param_groups_weight_decay`, which
    MAE uses: class and mask tokens, being 3-D, decay. `optim.no_decay`, `optim.decay` and `optim.lr_scale` name the
    exceptions.

    With `optim.layer_decay` d, a parameter in layer i of the encoder's n layers has the learning-rate factor d ** (n -
    i). A parameter outside the layers has the factor 1 (BEiT's rule, which MAE and SimMIM use). This factor is
    multiplied by that of `optim.lr_scale`.

    Args:
        module: the module that is trained; with `layer_decay`, `module.encoder` has `layers()`.
        optim: settings of the optimizer.

    Returns:
        Non-empty groups. Each has "params", "names" (in the same order), "weight_decay" and "lr_scale", the factor of
        the learning rate.

    Raises:
        ValueError: a pattern is no regular expression, or matches no trained parameter; or a parameter matches both
            `decay` and `no_decay`.
    """
    named = {name: p for name, p in module.named_parameters() if p.requires_grad}
    spared, decayed = _matches("no_decay", optim.no_decay, named), _matches("decay", optim.decay, named)
    if both := sorted(spared & decayed):
        raise ValueError(f"optim.no_decay and optim.decay both match {both[0]}: make one of the patterns narrower")
    scales = dict.fromkeys(named, 1.0)
    for pattern, factor in optim.lr_scale:
        scales |= dict.fromkeys(_matches("lr_scale", (pattern,), named), factor)
    if optim.layer_decay < 1:
        layer_scales = _layer_scales(module.encoder, named, optim.layer_decay)
        scales = {name: scales[name] * scale for name, scale in layer_scales.items()}
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


def _layer_scales(encoder: Any, names: Iterable[str], decay: float) -> dict[str, float]:
    """Maps each parameter to the learning-rate factor of its layer of the encoder."""
    layers = [tuple(f"encoder.{prefix}" for prefix in layer) for layer in encoder.layers()]
    scales = dict.fromkeys(names, 1.0)
    for i, layer in enumerate(layers):
        inside = [name for name in scales if any(f"{name}.".startswith(f"{prefix}.") for prefix in layer)]
        scales |= dict.fromkeys(inside, decay ** (len(layers) - i))
    return scales


def _matches(field: str, patterns: tuple[str, ...], names: Iterable[str]) -> set[str]:
    """Returns the names that match any of the patterns."""
    found = set()
    for pattern in patterns:
        try:
            compiled = re.compile(pattern)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"optim.{field}: expected regular expressions, got {pattern!r}: {error}") from error
        matching = {name for name in names if compiled.search(name)}
        if not matching:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)
            raise ValueError(f"optim.{field}: {pattern!r} is in no trained parameter's name; nearest: {near[0]}")
        found |= matching
    return found


def stage0_optimizer(groups: list[dict], optim: Optim, loss_scaling: bool) -> Stage0Optimizer:
    """Returns the optimizer that `optim.algorithm` names.

    Args:
        groups: result of `parameter_groups`.
        optim: settings of the optimizer.
        loss_scaling: True to keep a dynamic loss scale (fp16).
    """
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
