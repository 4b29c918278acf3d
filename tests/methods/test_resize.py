"""Learned tables at other sizes agree with the official splines and with timm's geometry."""

import pytest
import torch

from fastmim.convert.position_tables import _spread, resize_position_embedding, resize_relative_bias

# scipy.interpolate.RectBivariateSpline(x, x, z, s=0), what interp2d(kind="cubic") called, SciPy 1.17; x as spread for
# window 6 to 7, z[i, j] = sin(i) * cos(2 * j); rows 0, 3, 6, 9, columns 0, 1, 6, 12.
SCIPY = (
    (5.9805489853696e-06, 3.321504843427935e-07, -5.018127066570852e-06, 2.44069896547255e-06),
    (0.790189485308335, 0.04388590761432576, -0.6630279684481858, 0.3224812076682714),
    (-0.9589207041581421, -0.05325697976824825, 0.8046060574101271, -0.391341459845372),
    (0.9942785271856511, 0.055220698830168356, -0.8342739105093521, 0.4057712057258593),
)


def bowl(side: int, heads: int = 2) -> torch.Tensor:
    y, x = torch.meshgrid(torch.arange(side).double(), torch.arange(side).double(), indexing="ij")
    return torch.stack([(y.sin() * (2 * x).cos()) * (head + 1) for head in range(heads)], dim=-1).flatten(0, 1)


def test_the_spline_is_scipys():
    out = resize_relative_bias(bowl(11), (13, 13)).reshape(13, 13, 2)
    torch.testing.assert_close(
        out[[0, 3, 6, 9]][:, [0, 1, 6, 12]][..., 0], torch.tensor(SCIPY, dtype=torch.float64), rtol=0, atol=1e-12
    )
    torch.testing.assert_close(out[..., 1], 2 * out[..., 0])


@pytest.mark.parametrize(("source", "target"), [(6, 7), (12, 14), (7, 12), (14, 7)])
def test_cubics_come_out_exactly(source, target):
    """A cubic surface in the spread coordinates is resized exactly."""
    old, new = 2 * source - 1, 2 * target - 1
    x = _spread(source - 1, target - 1)
    at = torch.arange(1.0 - target, target, dtype=torch.float64).clamp(x[0], x[-1])

    def surface(p):
        return ((p / 10) ** 3 - (p / 10) ** 2 + 1)[:, None] * (p / 5 + 2 * (p / 10) ** 3)[None]

    out = resize_relative_bias(surface(x).reshape(-1, 1), (new, new))
    torch.testing.assert_close(out.reshape(new, new), surface(at))
    assert out.shape == (new * new, 1) and old**2 == x.numel() ** 2


@pytest.mark.parametrize(("source", "target"), [(6, 7), (12, 14), (7, 8)])
@pytest.mark.parametrize("extra", [0, 3])
def test_near_timms(source, target, extra):
    """timm interpolates linearly between the same places, unless SciPy is used."""
    import timm.layers.pos_embed_rel as timm_tables

    y = torch.arange((2 * source - 1) ** 2).reshape(2 * source - 1, -1)
    smooth = torch.stack([(y * 0.002).sin() + 0.3 * (y.T * 0.002).cos(), (y + y.T) * 0.001], dim=-1).flatten(0, 1)
    table = torch.cat([smooth, torch.randn(extra, 2)])
    new = 2 * target - 1
    expected = timm_tables.resize_rel_pos_bias_table(table, (target, target), (new * new + extra, 2))
    out = resize_relative_bias(table, (new, new))
    assert out.shape == expected.shape and out.dtype == table.dtype
    torch.testing.assert_close(out, expected, rtol=0, atol=0.02)
    assert torch.equal(out[new * new :], table[(2 * source - 1) ** 2 :])


def test_only_the_side_that_changes_is_resized():
    table = torch.randn(27 * 27 + 3, 2)
    out = resize_relative_bias(table, (27, 55))
    assert out.shape == (27 * 55 + 3, 2)
    middle = out[:-3].reshape(27, 55, 2)[:, 27]
    torch.testing.assert_close(middle, table[:-3].reshape(27, 27, 2)[:, 13])


@pytest.mark.parametrize(("prefix", "grid"), [(1, (16, 16)), (1, (14, 28)), (0, (7, 7))])
def test_position_embeddings(prefix, grid):
    """The grid is resized as by timm without antialiasing, and prefix rows stay as they are."""
    from timm.layers import resample_abs_pos_embed

    table = torch.randn(1, prefix + 14 * 14, 8)
    out = resize_position_embedding(table, grid, prefix)
    expected = resample_abs_pos_embed(table, list(grid), num_prefix_tokens=prefix, antialias=False)
    torch.testing.assert_close(out, expected)
    assert torch.equal(out[:, :prefix], table[:, :prefix])


def test_what_is_no_square_is_refused():
    with pytest.raises(ValueError, match="square number of positions"):
        resize_position_embedding(torch.zeros(1, 198, 4), (14, 14), 1)
    with pytest.raises(ValueError, match="offsets of a square window"):
        resize_relative_bias(torch.zeros(123, 4), (13, 13))
