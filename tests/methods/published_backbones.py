"""Names and shapes of the backbones of MMDetection, MMSegmentation, MMPretrain and Detectron2, written from their code.

mmdet 3.3, mmseg 1.2 (models/backbones/swin.py, resnet.py), mmpretrain 1.2 (vision_transformer.py, beit.py,
convnext.py), detectron2 (modeling/backbone/resnet.py, vit.py, swin.py).
"""

Shapes = dict[str, tuple[int, ...]]


def linear(name: str, out: int, into: int, *kernel: int, bias: bool = True) -> Shapes:
    return {f"{name}.weight": (out, into, *kernel)} | ({f"{name}.bias": (out,)} if bias else {})


def norm(name: str, dim: int) -> Shapes:
    return {f"{name}.weight": (dim,), f"{name}.bias": (dim,)}


def batch_norm(name: str, dim: int, counts: bool) -> Shapes:
    found = norm(name, dim) | {f"{name}.running_mean": (dim,), f"{name}.running_var": (dim,)}
    return found | ({f"{name}.num_batches_tracked": ()} if counts else {})


def openmmlab_swin(dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> Shapes:
    found = linear("patch_embed.projection", dim, 3, 4, 4) | norm("patch_embed.norm", dim)
    for s, depth in enumerate(depths):
        width = dim << s
        for b in range(depth):
            block = f"stages.{s}.blocks.{b}"
            found |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
            found |= {f"{block}.attn.w_msa.relative_position_bias_table": ((2 * window - 1) ** 2, heads[s])}
            found |= {f"{block}.attn.w_msa.relative_position_index": (window**2, window**2)}
            found |= linear(f"{block}.attn.w_msa.qkv", 3 * width, width)
            found |= linear(f"{block}.attn.w_msa.proj", width, width)
            found |= linear(f"{block}.ffn.layers.0.0", 4 * width, width)
            found |= linear(f"{block}.ffn.layers.1", width, 4 * width)
        if s < len(depths) - 1:
            found |= norm(f"stages.{s}.downsample.norm", 4 * width)
            found |= linear(f"stages.{s}.downsample.reduction", 2 * width, 4 * width, bias=False)
        found |= norm(f"norm{s}", width)
    return found


def detectron2_swin(dim: int, depths: tuple[int, ...], heads: tuple[int, ...], window: int) -> Shapes:
    found = linear("patch_embed.proj", dim, 3, 4, 4) | norm("patch_embed.norm", dim)
    for s, depth in enumerate(depths):
        width = dim << s
        for b in range(depth):
            block = f"layers.{s}.blocks.{b}"
            found |= norm(f"{block}.norm1", width) | norm(f"{block}.norm2", width)
            found |= {f"{block}.attn.relative_position_bias_table": ((2 * window - 1) ** 2, heads[s])}
            found |= {f"{block}.attn.relative_position_index": (window**2, window**2)}
            found |= linear(f"{block}.attn.qkv", 3 * width, width) | linear(f"{block}.attn.proj", width, width)
            found |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
        if s < len(depths) - 1:
            found |= norm(f"layers.{s}.downsample.norm", 4 * width)
            found |= linear(f"layers.{s}.downsample.reduction", 2 * width, 4 * width, bias=False)
        found |= norm(f"norm{s}", width)
    return found


def mmpretrain_vit(dim: int, depth: int, patch: int, positions: int) -> Shapes:
    found = {"cls_token": (1, 1, dim), "pos_embed": (1, 1 + positions, dim)}
    found |= linear("patch_embed.projection", dim, 3, patch, patch) | norm("ln1", dim)
    for b in range(depth):
        block = f"layers.{b}"
        found |= norm(f"{block}.ln1", dim) | norm(f"{block}.ln2", dim)
        found |= linear(f"{block}.attn.qkv", 3 * dim, dim) | linear(f"{block}.attn.proj", dim, dim)
        found |= linear(f"{block}.ffn.layers.0.0", 4 * dim, dim) | linear(f"{block}.ffn.layers.1", dim, 4 * dim)
    return found


def mmpretrain_beit(
    dim: int, depth: int, heads: int, patch: int, grid: tuple[int, int], shared: bool, absolute: bool
) -> Shapes:
    cells, offsets = grid[0] * grid[1], (2 * grid[0] - 1) * (2 * grid[1] - 1) + 3
    bias = {"relative_position_bias_table": (offsets, heads), "relative_position_index": (cells + 1, cells + 1)}
    found = {"cls_token": (1, 1, dim)} | ({"pos_embed": (1, 1 + cells, dim)} if absolute else {})
    found |= linear("patch_embed.projection", dim, 3, patch, patch) | norm("ln1", dim)
    found |= {f"rel_pos_bias.{name}": shape for name, shape in bias.items() if shared}
    for b in range(depth):
        block = f"layers.{b}"
        found |= norm(f"{block}.ln1", dim) | norm(f"{block}.ln2", dim)
        found |= {f"{block}.{name}": (dim,) for name in ("gamma_1", "gamma_2", "attn.q_bias", "attn.v_bias")}
        found |= linear(f"{block}.attn.qkv", 3 * dim, dim, bias=False) | linear(f"{block}.attn.proj", dim, dim)
        found |= {f"{block}.attn.{name}": shape for name, shape in bias.items() if not shared}
        found |= linear(f"{block}.ffn.layers.0.0", 4 * dim, dim) | linear(f"{block}.ffn.layers.1", dim, 4 * dim)
    return found


def detectron2_vit(dim: int, depth: int, patch: int, positions: int) -> Shapes:
    found = {"pos_embed": (1, 1 + positions, dim)} | linear("patch_embed.proj", dim, 3, patch, patch)
    for b in range(depth):
        block = f"blocks.{b}"
        found |= norm(f"{block}.norm1", dim) | norm(f"{block}.norm2", dim)
        found |= linear(f"{block}.attn.qkv", 3 * dim, dim) | linear(f"{block}.attn.proj", dim, dim)
        found |= linear(f"{block}.mlp.fc1", 4 * dim, dim) | linear(f"{block}.mlp.fc2", dim, 4 * dim)
    return found


def mmpretrain_convnext(dims: tuple[int, ...], depths: tuple[int, ...]) -> Shapes:
    found = linear("downsample_layers.0.0", dims[0], 3, 4, 4) | norm("downsample_layers.0.1", dims[0])
    for s, (dim, depth) in enumerate(zip(dims, depths, strict=True)):
        if s:
            found |= norm(f"downsample_layers.{s}.0", dims[s - 1])
            found |= linear(f"downsample_layers.{s}.1", dim, dims[s - 1], 2, 2)
        for b in range(depth):
            block = f"stages.{s}.{b}"
            found |= linear(f"{block}.depthwise_conv", dim, 1, 7, 7) | norm(f"{block}.norm", dim)
            found |= linear(f"{block}.pointwise_conv1", 4 * dim, dim)
            found |= linear(f"{block}.pointwise_conv2", dim, 4 * dim) | {f"{block}.gamma": (dim,)}
        found |= norm(f"norm{s}", dim)
    return found


BLOCKS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


def resnet(depth: int, base: int, stem: int, detectron2: bool) -> Shapes:
    """Of Detectron2 (norms within convolutions), or of OpenMMLab and torchvision."""
    found: Shapes = {}

    def convolution(name: str, after: str, out: int, into: int, kernel: int) -> None:
        after = f"{name}.norm" if detectron2 else after
        found.update(linear(name, out, into, kernel, kernel, bias=False))
        found.update(batch_norm(after, out, counts=not detectron2))

    convolution("stem.conv1" if detectron2 else "conv1", "bn1", stem, 3, 7)
    into, grows = stem, 1 if depth < 50 else 4
    for s, blocks in enumerate(BLOCKS[depth]):
        width = base << s
        for b in range(blocks):
            block = f"res{s + 2}.{b}" if detectron2 else f"layer{s + 1}.{b}"
            kernels = (3, 3) if depth < 50 else (1, 3, 1)
            widths = [into, *[width] * (len(kernels) - 1), width * grows]
            for i, kernel in enumerate(kernels):
                convolution(f"{block}.conv{i + 1}", f"{block}.bn{i + 1}", widths[i + 1], widths[i], kernel)
            if b == 0 and (s > 0 or into != width * grows):
                short = f"{block}.shortcut" if detectron2 else f"{block}.downsample.0"
                convolution(short, f"{block}.downsample.1", width * grows, into, 1)
            into = width * grows
    return found
