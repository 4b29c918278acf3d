"""Random cases of window_attention and window_attention_backward, for their fuzz tests."""

from hypothesis import strategies as st

from fastmim_kernels.window_attention.cases import Case


@st.composite
def any_case(draw, largest_side: int, largest_dim: int):
    window = (draw(st.integers(1, largest_side)), draw(st.integers(1, largest_side)))
    grid = tuple(n * draw(st.integers(1, 3)) for n in window)
    return Case(
        batch=draw(st.integers(0, 3)),
        grid=grid,
        window=window,
        # A single window is not rolled: if no pair belongs together, all gradients are as small as exp(-100).
        shift=tuple(draw(st.integers(0, w - 1)) if w < n else 0 for n, w in zip(grid, window, strict=True)),
        num_heads=draw(st.integers(1, 3)),
        dim=draw(st.integers(1, largest_dim)),
        places=draw(st.sampled_from(["image", "window"])),
        strided=draw(st.booleans()),
    )
