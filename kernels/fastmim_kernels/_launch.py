"""Launch settings that several Triton kernels share."""


def num_warps(block: int) -> int:
    """Returns the warps of a Triton program on `block` values: about 8 values per thread, which stay in registers."""
    return min(max(block // 256, 1), 16)
