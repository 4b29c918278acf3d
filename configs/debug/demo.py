"""A small ConvNeXt V2 on 64-px close views of photographs and drawings, for `make demo`.

    fastmim demo-data data/demo/train --part train --count 2000 --size 96
    fastmim demo-data data/demo/held_out --part held_out --count 48 --size 96
    deepspeed fastmim/train.py configs/debug/demo.py

Training takes about 1 min 50 s on two CPU cores. Hidden patches have the mean colour and a token joins them, as in
A2MIM; the decoder is SimMIM's single layer. It predicts plain pixels, so the pictures show colours that the network
chose. A convolutional network beats interpolation in this time; a ViT has to learn first which patches are near. The
held-out images show three photographs that no training image shows. The seed of these views was chosen so that the
first ones are recognisable.
Measured here: bench/results/summary.png.
"""

from fastmim.recipe import ConvNeXt, LinearHead, MaskedL2, Pixels, RandomMasking, RandomResizedCrop, change, load

mae = load("../mae/pretrain/vit_base_patch16_224_800ep.py")
config = change(
    mae,
    masking=RandomMasking(ratio=0.7),
    encoder=ConvNeXt("convnextv2_tiny", token_layer=0, depths=(1, 4, 1, 1), dims=(48, 96, 128, 128), output_stride=8),
    decoder=LinearHead(),
    target=Pixels(),
    loss=MaskedL2(),
    data=dict(
        root="data/demo/train",
        held_out_root="data/demo/held_out",
        held_out=48,
        size=(64, 64),
        crop=RandomResizedCrop(scale=(0.5, 1.0)),
    ),
    optim=dict(blr=2.4e-2, warmup_epochs=0.5, betas=(0.9, 0.99), clip=1.0),
    train=dict(epochs=6, global_batch=16),
    run=dict(save_every=250, log_every=25, evaluate_every=125),
)
