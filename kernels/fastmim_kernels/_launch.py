"""Launch settings that several Triton kernels share."""


def num_warps(block: int) -> int:
    """Returns the warps of a Triton program on `block` values.

    A thread has about 8 values, which stay in registers.
    """
    return min(max(block // 256, 1), 16)
