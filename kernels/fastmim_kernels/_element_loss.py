"""Losses of single residuals, which several ops compute."""

from torch import Tensor

ELEMENT_LOSSES = ("l1", "l2", "focal_l1")
"""Names of the losses of a residual d: |d|, d^2 and |d| tanh(alpha |d| / 2)^gamma.

Ops take the index of a name.
"""


def element_loss_index(loss: str, alpha: float, gamma: float) -> int:
    """Returns the index of a loss in ELEMENT_LOSSES. With gamma 0, focal L1 is L1.

    Raises:
        ValueError: there is no such loss, or the formula or its gradient at 0 is undefined for these numbers.
    """
    if loss not in ELEMENT_LOSSES:
        raise ValueError(f"loss: expected one of {ELEMENT_LOSSES}, got {loss!r}")
    if not (alpha > 0 and (gamma == 0 or gamma >= 1)):
        raise ValueError(f"expected alpha above 0 and gamma 0 or at least 1, got {alpha} and {gamma}")
    return ELEMENT_LOSSES.index("l1" if loss == "focal_l1" and gamma == 0 else loss)


def element_loss(d: Tensor, loss: int, alpha: float, gamma: float) -> Tensor:
    """Returns the loss of each residual; `loss` is an index in ELEMENT_LOSSES."""
    match loss:
        case 0:
            return d.abs()
        case 1:
            return d.square()
    return d.abs() * (0.5 * alpha * d.abs()).tanh() ** gamma


def element_loss_slope(d: Tensor, loss: int, alpha: float, gamma: float) -> Tensor:
    """Returns the derivative of `element_loss`. The derivative of L1 at 0 is 0."""
    match loss:
        case 0:
            return d.sign()
        case 1:
            return 2 * d
    t = (0.5 * alpha * d).tanh().abs()
    return d.sign() * t ** max(gamma - 1, 0) * (t + d.abs() * gamma * 0.5 * alpha * (1 - t.square()))
