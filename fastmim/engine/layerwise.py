"""LAMB and LARS for ZeRO stage 0, with timm's formulas. Both scale the step of each layer."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from timm.optim import lamb, lars
from torch import Tensor

from .stage0 import UNEXPORTED, Stage0Optimizer


class _FromTimm(Stage0Optimizer):
    """Base class of timm's optimizers, which cannot skip an update on the device.

    So the host reads the skip flag from the device, once an update.
    """

    def __init__(self, groups: list[dict], **settings: Any):
        super().__init__(groups, **settings)
        for master in self.masters.values():
            self.state[master] = {name: torch.zeros_like(master, requires_grad=False) for name in self.moments}
        for group in self.param_groups:
            group["step"] = torch.zeros(())

    def counters(self) -> list[Tensor]:
        return [group["step"] for group in self.param_groups]

    def update(self) -> None:
        if self.found_inf:
            return
        grads = [m.grad for m in self.masters.values() if m.grad is not None]
        UNEXPORTED._foreach_div_(grads, self.grad_scale)
        self.timm_step()

    @abstractmethod
    def timm_step(self) -> None:
        """Does one update of timm's optimizer."""


class Lamb(_FromTimm, lamb.Lamb):
    """LAMB (arXiv:1904.00962); parameters without weight decay take plain Adam steps."""

    def __init__(self, groups: list[dict], **settings: Any):
        super().__init__(groups, max_grad_norm=None, **settings)

    def timm_step(self) -> None:
        lamb.Lamb.step(self)


class Lars(_FromTimm, lars.Lars):
    """LARS (arXiv:1708.03888) as in MAE's linear probe: 1-D parameters take plain steps with momentum."""

    moments = ("momentum_buffer",)

    def __init__(self, groups: list[dict], **settings: Any):
        split = []
        for group in groups:
            for adapts in (True, False):
                pairs = list(zip(group["names"], group["params"], strict=True))
                if inside := [pair for pair in pairs if (pair[1].ndim > 1) == adapts]:
                    names, params = zip(*inside, strict=True)
                    split.append({**group, "names": names, "params": params, "always_adapt": adapts})
        super().__init__(split, **settings)

    def timm_step(self) -> None:
        lars.Lars.step(self)
        for group in self.param_groups:
            group["step"] += 1
