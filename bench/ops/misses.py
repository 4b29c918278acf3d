"""Reasons of missed targets on a CPU, for the report. Remove a reason when its target is reached."""

from typing import NamedTuple


class Reason(NamedTuple):
    """A reason, and the attempts to reach the target."""

    why: str
    tried: str


_DIVISION = Reason(
    "The division by std takes most of the time. (x / 255 - mean) / std is 3 FLOP a value, rounded after each step, so "
    "that every implementation gives the same bits.",
    "In use: x / 255 as an exact sum of two products instead of a division. Tables of the 256 results of a channel, "
    "and a division by corrected reciprocals, were slower; stores past the cache gained nothing.",
)
_ROUNDING = Reason(
    "There are as many values as in float32, while the copy moves fewer bytes. Integer operations round each value to "
    "bfloat16, since this processor lacks the instruction (AVX512-BF16). Pixels in uint8 first take 3 FLOP a value "
    "with a division, and the decoder's tokens 1 FLOP, the sum with a position in float32.",
    "In use: rounding of 16 values at a time with AVX2 integers instead of a loop left to the compiler (commit "
    "783917d; the gain was not recorded). Nothing since.",
)
_LINES = Reason(
    "Nothing is left to fuse, and there is no FLOP: torch.compile also reads each value once and writes it once. The "
    "op reads short lines of patches, 192 bytes of 16 pixels, that lie far apart, while the copy reads a stream.",
    "In use: lines moved 16 bytes at a time instead of calls to memcpy (commit 783917d; the gain was not recorded). "
    "Prefetching the next patch's lines was not tried.",
)
_SMALL = Reason(
    "At 8 images the fixed costs count: two ops, their node of autograd, and the start of the threads. The same cases "
    "at 64 images reach the targets against eager and compiled torch. 1 FLOP a value.",
    "Nothing for small batches. Hidden rows are formed once and written past the cache, which helps large batches.",
)
_SORT = Reason(
    "Sorting the draws takes the time: integers, no FLOP. A tight loop of calls is faster than the rows. In the rows "
    "other arms run in between; presumably caches and branch predictors then no longer hold the op, which was not "
    "measured.",
    "In use: a sort in buckets (kernels/csrc/draws.h), which is faster than an insertion and merge sort.",
)
_PRODUCTS = Reason(
    "Small matrix products, of 16 to 144 tokens by 32, limit the op, not memory. The rate in the table falls with the "
    "size and the number of the windows. In the last stage the position MLP, which stays in torch, also takes time.",
    "In use: prefetching the next head's rows, which made forward and backward faster.",
)
_QKV = Reason(
    "The op allocates the result and the gradients of the result and of qkv, as the published code does. With few "
    "pairs per token, the scores of the published code add little. qkv itself is an argument, and both keep it.",
    "Nothing: less memory would need a gradient that overwrites its input.",
)

MISSES: dict[tuple[str, str, str, str], Reason] = {
    ("patch_gather", "", "bf16", "copy"): _ROUNDING,
    ("patch_gather", "float", "fp32", "compile"): _LINES,
    ("patch_gather", "float", "fp32", "copy"): _LINES,
    ("patch_gather", "", "fp32", "copy"): _DIVISION,
    ("mean_fill", "uint8", "bf16", "copy"): _ROUNDING,
    ("mean_fill", "uint8", "fp32", "copy"): _DIVISION,
    ("mask_token", "", "fp32", "eager"): Reason(
        "The op runs at nine tenths of the copy's rate, and eager torch makes only about three times the passes that "
        "the op needs. At most 1 FLOP a value.",
        "Nothing, since the op is near the limit.",
    ),
    ("mask_token", "resnet50", "", "copy"): Reason(
        "At least about half of the time goes to the gradient of the token, which reads few bytes: the rows of hidden "
        "cells, added by channel in float32, in one order for any number of threads, 1 FLOP a value. In bfloat16 "
        "integer operations also round every value.",
        "Nothing.",
    ),
    ("mask_token", "resnet50", "bf16", "compile"): Reason(
        "The forward pass alone is slower than that of torch.compile. The backward pass is more than twice as fast, "
        "and both together stay just below the target. Both implementations round to bfloat16 in integers. Why the "
        "forward pass takes longer is not known.",
        "Nothing.",
    ),
    ("unshuffle", "batch 8", "", "compile"): _SMALL,
    ("unshuffle", "batch 8", "", "eager"): _SMALL,
    ("unshuffle", "batch 8", "", "copy"): _SMALL,
    ("unshuffle", "", "bf16", "copy"): _ROUNDING,
    ("patch_loss", "map", "", "eager"): Reason(
        "The values of a patch lie a whole map apart: 144 bytes in float32 of 6 x 6 patches. Of each cache line of 64 "
        "bytes, a patch uses 4. No method of fastmim makes such a map: LinearHead reorders the rows of its weight "
        "instead, and the predictions lie patch by patch, as in the case without `map`. About 6 FLOP a value: 3 of the "
        "pixel's normalisation, the difference, its sum, the gradient.",
        "Nothing: work on neighbouring patches side by side, which would use whole lines, was not tried.",
    ),
    ("low_pass", "batch 8", "", "official"): Reason(
        "The same case at 64 images reaches the target. Each call builds the tables of waves anew, in less time than "
        "one image takes, which counts at 8 images.",
        "Nothing: keeping the tables between calls was not tried.",
    ),
    ("window_attention", "", "", "memory"): _QKV,
    ("window_attention", "", "", "official"): _PRODUCTS,
    ("uniform_mask", "", "", "us"): _SORT,
    ("random_mask", "", "", "us"): _SORT,
}
"""Maps (op, part of the case's name, dtype, target) to the reason why the target is missed.

An empty dtype fits all dtypes. The first entry that fits counts.
"""

UNMEASURED = {
    ("window_attention", "bf16"): "its rows were recorded with `--dtype fp32`; in bfloat16 it is tested, not timed",
}
"""Reasons why an op has no rows in a dtype."""
