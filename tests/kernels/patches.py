"""Random cases of patch_gather and patch_scatter, for their fuzz tests."""

from hypothesis import strategies as st


@st.composite
def any_case(draw, case: type, images: list, largest_patch: int):
    """Draws a `case` whose images have one of the types `images`."""
    grid, patch = (draw(st.integers(1, 4)), draw(st.integers(1, 4))), draw(st.integers(1, largest_patch))
    num_ids = draw(st.integers(0, grid[0] * grid[1]))
    return case(
        draw(st.integers(0, 3)),
        grid,
        patch,
        num_ids,
        token=draw(st.sampled_from([n for n in range(1, patch + 1) if patch % n == 0])),
        columns=draw(st.sampled_from([n for n in range(1, num_ids + 2) if num_ids % n == 0])),
        channels=draw(st.integers(1, 5)),
        images=draw(st.sampled_from(images)),
        strided=draw(st.booleans()),
    )
