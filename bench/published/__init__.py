"""Each method as published, in plain torch: the baseline of fastmim and the reference of its tests.

Each module has two functions. `from_config(cfg, attention)` returns the published model of a config. `inputs(mask)`
returns the model's inputs after the images, which hide the patches of `mask`. The modules import torch only, because a
reference that shares code with fastmim would share its mistakes. `copy_weights` is the exception: it needs the list of
official names.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn


def build(cfg: Any, attention: str = "explicit") -> tuple[nn.Module, Callable[..., tuple[Tensor, ...]]]:
    """Returns the published model of a fastmim config, and its `inputs(mask)`.

    `model(images, *inputs(mask))` takes normalised (B, C, H, W) floats and returns the loss first.

    Args:
        cfg: the config.
        attention: "explicit", as published, or "sdpa".

    Raises:
        ValueError: no module here has the method of the config. The message gives the reason of each module.
    """
    reasons = []
    for entry in pkgutil.iter_modules(__path__):
        module = importlib.import_module(f"{__name__}.{entry.name}")
        if not hasattr(module, "from_config"):
            continue
        try:
            return module.from_config(cfg, attention), module.inputs
        except (ValueError, AttributeError) as error:  # parts of another kind lack fields that a module reads
            reasons.append(f"{entry.name}: {error}")
    raise ValueError(f"no published form of this config; {'; '.join(reasons)}")


def copy_weights(model: nn.Module, mim: nn.Module) -> None:
    """Gives a published model the weights of a fastmim model, by way of the official names.

    Buffers that the official code does not store keep their values.

    Raises:
        ValueError: no format of fastmim.convert has the names and shapes of both models. The message describes the
            nearest format.
    """
    from fastmim.convert.official_weights import FORMATS

    wanted = {name: value.shape for name, value in model.state_dict().items()}
    needed = wanted.keys() - dict(model.named_buffers()).keys()
    nearest: list[tuple[int, str]] = []
    for fmt in FORMATS:
        state, differing = fmt.to_official(mim.state_dict())
        try:
            state |= fmt.derived(mim) if fmt.derived and not differing else {}
        except ValueError as error:
            differing.append(str(error))
        differing += [name for name, value in state.items() if wanted.get(name) != value.shape]
        differing += sorted(needed - state.keys())
        if not differing:
            model.load_state_dict(state, strict=False)
            return
        nearest.append((len(differing), f"{fmt.name}, except for {', '.join(differing[:4])}"))
    raise ValueError(f"no official format has the names of {type(model).__name__} and ours; nearest: {min(nearest)[1]}")
