"""Methods written the way they were published, in plain unfused torch: what fastmim is checked and measured against.

Each module has `from_config(cfg, attention)`, the published model of a config of its kind, and `inputs(mask)`, what its
forward takes after the images so that it hides the same patches. May import torch only: an oracle that shared code with
fastmim would share its mistakes. (`copy_weights` needs fastmim's list of official names, and nothing else of it.)
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def build(cfg: Any, attention: str = "explicit") -> tuple[nn.Module, Callable[..., tuple[Tensor, ...]]]:
    """The published model of a fastmim config, and its `inputs(mask)`.

    `model(images, *inputs(mask))` takes normalised (B, C, H, W) floats and gives the loss first.

    Args:
        attention: "explicit", as published, or "sdpa".
    Raises:
        ValueError: no module here is of the config's kind; says why each is not.
    """
    reasons = []
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        if not hasattr(module, "from_config"):
            continue
        try:
            return module.from_config(cfg, attention), module.inputs
        except ValueError as error:
            reasons.append(f"{entry.name}: {error}")
    raise ValueError(f"no published form of this config; {'; '.join(reasons)}")


def copy_weights(model: nn.Module, mim: nn.Module) -> None:
    """Gives a published model the weights of ours, through the official names.

    Raises:
        ValueError: no format of fastmim.convert gives exactly this model's keys and shapes; names the nearest one's
            differences.
    """
    from fastmim.convert import FORMATS

    wanted = {key: value.shape for key, value in model.state_dict().items()}
    nearest: tuple[int, str] | None = None
    for fmt in FORMATS:
        state = fmt.to_official(mim.state_dict())
        differences = [
            key
            for key in wanted.keys() | state.keys()
            if key not in state or key not in wanted or state[key].shape != wanted[key]
        ]
        if not differences:
            with torch.no_grad():
                model.load_state_dict(state, strict=True)
            return
        found = len(differences), f"{fmt.name} differs in {', '.join(sorted(differences)[:6])}"
        nearest = min(nearest or found, found)
    raise ValueError(f"no official format has the keys of {type(model).__name__}; nearest: {nearest and nearest[1]}")
