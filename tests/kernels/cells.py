"""Random cases of mask_token and mask_token_backward, for their fuzz tests."""

import torch
from hypothesis import strategies as st

from fastmim_kernels.mask_token.cases import Case

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
MODES = ["replace", "add", "gated"]


@st.composite
def any_case(draw, largest: int):
    cells = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    return Case(
        draw(st.integers(0, 3)),
        (cells[0] * draw(st.integers(1, largest)), cells[1] * draw(st.integers(1, largest))),
        cells,
        dim=draw(st.integers(1, 200)),
        mode=draw(st.sampled_from(MODES)),
        params=draw(st.sampled_from([None, *DTYPES])),
        layout=draw(st.sampled_from(["contiguous", "strided", "channels_first"])),
    )
