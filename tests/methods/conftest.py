"""Outputs of the official code (tests/golden; facebookresearch/mae, float32, CPU), and how gradients are compared."""

from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1] / "golden"


@pytest.fixture
def golden():
    """golden(name): the arrays of one file by name, as tensors; of words, as NumPy arrays."""

    def load(name):
        with np.load(GOLDEN / f"{name}.npz") as data:
            return {k: v if v.dtype.kind == "U" else torch.from_numpy(v) for k, v in data.items()}

    return load


@pytest.fixture
def check_gradients():
    """check_gradients(gradients, data): gradients by official name equal the norms and tensors recorded in `data`.

    Below 1e-8 everything is rounding: the bias that all scores of a softmax share has a gradient of zero in theory.
    """

    def check(gradients, data):
        for key, norm in zip(data["gradnorm_keys"], data["gradnorm"], strict=True):
            torch.testing.assert_close(gradients[str(key)].norm(), norm, rtol=1e-4, atol=1e-8, msg=str(key))
        recorded = [key for key in data if key.startswith("grad/")]
        assert recorded
        for key in recorded:
            scale = data[key].abs().max().item()
            torch.testing.assert_close(gradients[key[5:]], data[key], rtol=0, atol=1e-4 * scale + 1e-8, msg=key)

    return check
