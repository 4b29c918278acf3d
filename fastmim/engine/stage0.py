"""Optimizers of ZeRO stage 0: they clip, scale the loss and skip updates on the device."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

UNEXPORTED: Any = torch
"""The module torch without types, for functions that its type stubs do not export."""


def create_state(optimizer: torch.optim.AdamW, tensors: list[Tensor]) -> None:
    """Creates the moments of each tensor, so that they can be saved and loaded before the first step."""
    for tensor in tensors:
        optimizer.state[tensor] = {
            "step": torch.zeros((), dtype=torch.float32, device=tensor.device),
            "exp_avg": torch.zeros_like(tensor, requires_grad=False),
            "exp_avg_sq": torch.zeros_like(tensor, requires_grad=False),
        }


class Stage0Optimizer(torch.optim.Optimizer, ABC):
    """Base class of the optimizers of ZeRO stage 0.

    With loss scale s (1 without `loss_scaling`) and gradients g of s * loss: norm = |g| / s. Each gradient is divided
    by s * max(1, (norm + 1e-6) / clip). A non-finite norm leaves masters, moments and step counters untouched.

    bf16 parameters accumulate their gradients in fp32. After each step, each bf16 parameter is rounded from its fp32
    master.

    Args:
        groups: parameter groups from `parameter_groups`.
        clip: global gradient norm above which gradients are scaled down; None = no clipping.
        loss_scaling: True to keep a dynamic loss scale (fp16). The scale is halved at each overflow, and doubled after
            2000 steps without one.
        settings: settings of torch's or timm's optimizer.

    Attributes:
        parameters: the trained parameters, by name.
        masters: fp32 master of each parameter, by name; the parameter itself if it is fp32.
        grad_norm: () fp32, global norm of the last step's gradients, before clipping.
        found_inf: () fp32, 1 if the last step was skipped, else 0.
        loss_scale: () fp32, factor of the loss before the backward pass.
        grad_scale: () fp32, divisor of the last step's gradients.
        growth: () int32, steps since the loss scale last changed.
    """

    moments: tuple[str, ...] = ("exp_avg", "exp_avg_sq")
    """Names in `state` of the moments of each master."""
    found_inf: Any
    grad_scale: Any

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
        construct: Any = (
            super().__init__
        )  # the constructor of torch's or timm's optimizer, the second base of each subclass
        construct(groups, lr=0.0, **settings)
        self.clip = clip
        self.loss_scaling = loss_scaling
        device = next(iter(self.masters.values())).device
        self.grad_norm = torch.zeros((), device=device)
        self.found_inf = torch.zeros((), device=device)
        self.loss_scale = torch.full((), 2.0**16 if loss_scaling else 1.0, device=device)
        self.growth = torch.zeros((), dtype=torch.int32, device=device)

    @abstractmethod
    def counters(self) -> list[Tensor]:
        """Returns the counters of updates. A caller may write to them."""

    @abstractmethod
    def update(self) -> None:
        """Updates masters and moments. Each gradient of a master is first divided by `grad_scale`."""

    def copy_to_parameters(self) -> None:
        """Rounds the masters into the parameters that are not their own master."""
        pairs = [(p, self.masters[name]) for name, p in self.parameters.items() if p is not self.masters[name]]
        if pairs:
            UNEXPORTED._foreach_copy_([p.detach() for p, _ in pairs], [m.detach() for _, m in pairs])

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Does one update, which consumes the parameters' gradients; see the class.

        Args:
            closure: ignored; DeepSpeed passes None.
        """
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
            UNEXPORTED._amp_update_scale_(self.loss_scale, self.growth, self.found_inf, 2.0, 0.5, 2000)


class AdamW(Stage0Optimizer, torch.optim.AdamW):
    """Torch's fused AdamW, which divides and skips on the device, so that the host never waits."""

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

    def counters(self) -> list[Tensor]:
        return [state["step"] for state in self.state.values()]

    def update(self) -> None:
        torch.optim.AdamW.step(self)


class Sgd(Stage0Optimizer, torch.optim.SGD):
    """Torch's fused SGD with momentum, which divides and skips on the device.

    Weight decay is added to the gradient.
    """

    moments = ("momentum_buffer",)

    def __init__(self, groups: list[dict], **settings: Any):
        super().__init__(groups, fused=True, **settings)
        for master in self.masters.values():
            self.state[master]["momentum_buffer"] = torch.zeros_like(master, requires_grad=False)
        self.count = torch.zeros((), device=self.found_inf.device)

    def counters(self) -> list[Tensor]:
        return [self.count]

    def update(self) -> None:
        torch.optim.SGD.step(self)
        self.count += 1 - self.found_inf
