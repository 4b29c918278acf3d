"""Why an op misses a target on a CPU: (op, part of the case, dtype or "", target) -> words, the first that fits."""

_DIVISION = (
    "The time is in the divisions. (x / 255 - mean) / std is rounded after each step, so that every implementation "
    "gives the same bits; on data in the cache this alone takes 0.52 of the 0.84 ms of 64 images' visible patches. "
    "Tried: tables of all 256 results per channel took 1.5 to 2 times as long, products with a corrected reciprocal in "
    "place of divisions 1.2 times, stores past the cache gained nothing."
)
_ROUNDING = (
    "The copy is of half as many bytes, the values are as many, and each is rounded to bfloat16 by integer operations, "
    "since this processor has no instruction for it (AVX512-BF16). Of uint8 pixels the divisions come before that, of "
    "tokens the sum with a position in float32."
)
_LINES = (
    "Nothing is left to fuse: torch.compile too reads each value once and writes it once. What is read are short lines "
    "of patches far apart, 192 bytes of 16 pixels, where the copy reads a stream."
)
_SMALL = (
    "At 8 images, what does not grow with them is as long as the work: two ops, their node of autograd, the start of "
    "the threads. At 64 images eager and compiled torch are beaten as wanted."
)
_SORT = (
    "Drawing is cheap, the sort of the draws is the time. Alone in a tight loop a mask in noise order takes 0.99 us "
    "and a uniform one 1.3 us; here other arms run in between, so that the sort's branches are mispredicted and its "
    "data are not in the cache. It is less than a thousandth of an image's step on this machine."
)
_PRODUCTS = (
    "Bound by small products of 16 to 144 tokens by 32, not by memory, at 24 to 46 GFLOP/s a core in the larger cases. "
    "Tried: to ask for the next head's rows ahead, which made forward a third faster and backward a fifth, and is in. "
    "Of the last stage the position MLP, which stays in torch, is a quarter (0.34 of 1.19 ms on one thread)."
)
_QKV = (
    "What is allocated is the result and the gradients of it and of qkv, which the official way has too; with few "
    "pairs per token its scores are not much more. qkv itself is an argument, and both keep it."
)

MISSES = {
    ("patch_gather", "", "bf16", "copy"): _ROUNDING,
    ("patch_gather", "float", "fp32", "compile"): _LINES,
    ("patch_gather", "float", "fp32", "copy"): _LINES,
    ("patch_gather", "", "fp32", "copy"): _DIVISION,
    ("mean_fill", "uint8", "bf16", "copy"): _ROUNDING,
    ("mean_fill", "uint8", "fp32", "copy"): _DIVISION,
    ("mask_token", "", "fp32", "eager"): (
        "It is at the copy's limit: eager torch makes but three times as many passes as there must be."
    ),
    ("mask_token", "resnet50", "", "copy"): (
        "In float32 the forward pass alone attains the copy's rate. The rest is the gradient of the token: few bytes, "
        "in the rows of hidden cells, added up by channel in float32 and in one order whatever the threads. In "
        "bfloat16 every value is rounded by integer operations besides."
    ),
    ("mask_token", "resnet50", "bf16", "compile"): (
        "The forward pass is bound by rounding to bfloat16 in integers, and so is torch.compile's; the backward pass, "
        "of few bytes, takes less than half as long as its."
    ),
    ("unshuffle", "batch 8", "", "compile"): _SMALL,
    ("unshuffle", "batch 8", "", "eager"): _SMALL,
    ("unshuffle", "batch 8", "", "copy"): _SMALL,
    ("unshuffle", "", "bf16", "copy"): _ROUNDING,
    ("patch_loss", "map", "", "eager"): (
        "The values of a patch lie a whole map apart, 144 bytes in float32 of 6 x 6 patches: of each line of 64 bytes "
        "that is fetched for a patch, 4 are its own. No method of fastmim makes such a map: LinearHead reorders its "
        "weight's rows instead, and the predictions lie patch by patch, as in the case without `map`."
    ),
    ("low_pass", "batch 8", "", "official"): (
        "At 64 images it is met by far. The tables of waves are built anew in each call, which takes less than one "
        "image, and at 8 images that shows."
    ),
    ("window_attention", "", "", "memory"): _QKV,
    ("window_attention", "", "", "official"): _PRODUCTS,
    ("uniform_mask", "", "", "us"): _SORT,
    ("random_mask", "", "", "us"): _SORT,
}
