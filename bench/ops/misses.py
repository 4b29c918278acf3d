"""Why an op misses a target on a CPU, and what was tried.

`MISSES`: (op, part of the case, dtype or "", target) -> words, the first that fits. `UNMEASURED`: (op, dtype) -> why
there are no rows of it.
"""

from typing import NamedTuple


class Reason(NamedTuple):
    why: str
    tried: str


_DIVISION = Reason(
    "The time is in the division by std. (x / 255 - mean) / std, 3 FLOP a value, is rounded after each step, so that "
    "every implementation gives the same bits. By hand, on one thread and data in the cache, not recorded: this "
    "arithmetic is 0.52 of the 0.84 ms of 64 images' visible patches.",
    "x / 255 as the sum of two products, exact, in place of a division: in use. By hand, one thread, not recorded: "
    "tables of the 256 results of a channel took 1.5 to 2 times as long, a division by corrected reciprocals 1.2 "
    "times, stores past the cache gained nothing.",
)
_ROUNDING = Reason(
    "The values are as many as in float32, and each is rounded to bfloat16 by integer operations, since this processor "
    "has no instruction for it (AVX512-BF16), while the copy is of fewer bytes. Before that come, of uint8 pixels, 3 "
    "FLOP a value with a division, and of the decoder's tokens 1, the sum with a position in float32.",
    "Rounding 16 values at a time with AVX2 integers, in place of a loop left to the compiler: in use (commit 783917d; "
    "what it gained was not recorded). Nothing since.",
)
_LINES = Reason(
    "Nothing is left to fuse, and there is no FLOP: torch.compile too reads each value once and writes it once. What "
    "is read are short lines of patches far apart, 192 bytes of 16 pixels, where the copy reads a stream.",
    "Lines moved 16 bytes at a time in place of calls to memcpy: in use (commit 783917d; what it gained was not "
    "recorded). Asking for the next patch's lines ahead was not tried.",
)
_SMALL = Reason(
    "At 8 images, what does not grow with them counts: two ops, their node of autograd, the start of the threads. "
    "The same cases at 64 images beat eager and compiled torch as wanted. 1 FLOP a value.",
    "Nothing for small batches. What is in use, hidden rows formed once and written past the cache, helps large ones.",
)
_SORT = Reason(
    "The time is in ordering the draws: integers, no FLOP. By hand, one thread, not recorded: in a tight loop a random "
    "mask in order of noise takes 0.99 us and a uniform one 0.90 to 1.3 us. In the rows other arms run in between, "
    "presumably so that caches and branch predictors have forgotten the op; that was not counted.",
    "The present sort in buckets (kernels/csrc/draws.h) in place of an insertion and merge sort: in use; by hand, not "
    "recorded, random masks in order of noise went from 1.20 to 0.99 us in a tight loop.",
)
_PRODUCTS = Reason(
    "Bound by small matrix products, of 16 to 144 tokens by 32, not by memory. The smaller the windows and the fewer "
    "there are, the lower the rate in the table. Of the last stage about a quarter is the position MLP, which stays in "
    "torch (by hand, one thread, not recorded: 0.34 of 1.19 ms).",
    "Asking for the next head's rows ahead: in use. By hand, UM-MAE's stage 3 on one thread, not recorded: forward "
    "from 1.02 to 0.70 ms, backward from 1.93 to 1.57 ms.",
)
_QKV = Reason(
    "What is allocated is the result and the gradients of it and of qkv, which the official way has too; with few "
    "pairs per token its scores are not much more. qkv itself is an argument, and both keep it.",
    "Nothing: less would need a gradient written over its input.",
)

MISSES = {
    ("patch_gather", "", "bf16", "copy"): _ROUNDING,
    ("patch_gather", "float", "fp32", "compile"): _LINES,
    ("patch_gather", "float", "fp32", "copy"): _LINES,
    ("patch_gather", "", "fp32", "copy"): _DIVISION,
    ("mean_fill", "uint8", "bf16", "copy"): _ROUNDING,
    ("mean_fill", "uint8", "fp32", "copy"): _DIVISION,
    ("mask_token", "", "fp32", "eager"): Reason(
        "It is at nine tenths of the copy's rate: eager torch makes but about three times as many passes as there must "
        "be. At most 1 FLOP a value.",
        "Nothing, so near the limit.",
    ),
    ("mask_token", "resnet50", "", "copy"): Reason(
        "About half of the time or more is not the forward pass but the gradient of the token: few bytes, in the rows "
        "of hidden cells, added up by channel in float32 and in one order whatever the threads, 1 FLOP a value. In "
        "bfloat16 every value is rounded by integer operations besides.",
        "Nothing.",
    ),
    ("mask_token", "resnet50", "bf16", "compile"): Reason(
        "The forward pass alone is slower than torch.compile's; the backward pass is more than twice as fast, and both "
        "together stay just below the target. Both round to bfloat16 in integers; why ours takes longer forward was "
        "not found out.",
        "Nothing.",
    ),
    ("unshuffle", "batch 8", "", "compile"): _SMALL,
    ("unshuffle", "batch 8", "", "eager"): _SMALL,
    ("unshuffle", "batch 8", "", "copy"): _SMALL,
    ("unshuffle", "", "bf16", "copy"): _ROUNDING,
    ("patch_loss", "map", "", "eager"): Reason(
        "The values of a patch lie a whole map apart, 144 bytes in float32 of 6 x 6 patches: of each line of 64 bytes "
        "that is fetched for a patch, 4 are its own. No method of fastmim makes such a map: LinearHead reorders its "
        "weight's rows instead, and the predictions lie patch by patch, as in the case without `map`. About 6 FLOP a "
        "value: 3 of the pixel's normalisation, the difference, its sum, the gradient.",
        "Nothing: to work on neighbouring patches side by side, which would use whole lines, was not tried.",
    ),
    ("low_pass", "batch 8", "", "official"): Reason(
        "The same case at 64 images meets the target. The tables of waves are built anew in each call, in less time "
        "than one image takes, and at 8 images that shows.",
        "Nothing: to keep the tables from call to call was not tried.",
    ),
    ("window_attention", "", "", "memory"): _QKV,
    ("window_attention", "", "", "official"): _PRODUCTS,
    ("uniform_mask", "", "", "us"): _SORT,
    ("random_mask", "", "", "us"): _SORT,
}

UNMEASURED = {
    ("window_attention", "bf16"): "its rows were recorded with `--dtype fp32`; in bfloat16 it is tested, not timed",
}
