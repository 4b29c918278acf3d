"""SimMIM baseline of A2MIM, ConvNeXt-S, 224 px, 300 epochs.   arXiv:2205.13943; row SimMIM, ConvNeXt-S of its readme.

Recipe of openmixup `simmim/imagenet/convnext_small_sz224_8xb256_fp16_ep300.py`. AS PUBLISHED, NOTHING IS HIDDEN: the
image stays as it is, and the token is only added to the embeddings of hidden positions, so the network reads the pixels
that it predicts. Set encoder.token="replace" for a masked baseline: the stem does not cross the borders of hidden
patches.

Published: 83.2 % fine-tune (300 epochs of AdamW, which the readme calls RSB A2).
"""

from fastmim.recipe import ConvNeXt, change, load

base = load("simmim_resnet50_300ep.py")
config = change(
    base,
    encoder=ConvNeXt("convnext_small", token_layer=0, token="add", fill="none"),
    optim=dict(decay=(r"norm\.weight", r"stem\.1\.weight", r"downsample\.0\.weight")),
)
