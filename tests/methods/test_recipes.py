"""Tests of every recipe after pre-training, field by field, against tables typed from their sources.

Sources: facebookresearch/mae FINETUNE.md, main_finetune.py, main_linprobe.py; microsoft/SimMIM configs; implus/UM-MAE
Makefile; openmixup's A2MIM configs; mmselfsup's PixMIM configs; Alpha-VL/ConvMAE FINETUNE.md. `pytest -s` prints the
recipes.
"""

import pytest

from fastmim.config.classify import EMA
from fastmim.config.config_file import load
from fastmim.tasks.training_set import total_steps
from tests.methods.tiny import ROOT

PATHS = sorted(path for kind in ("finetune", "probe", "segment") for path in ROOT.glob(f"configs/*/{kind}/*.py"))

# The settings that fine-tuning of MAE, SimMIM, UM-MAE, ConvMAE and PixMIM have in common.
FINETUNE = {
    "algorithm": "adamw", "batch": 1024, "epochs": 100, "warmup": 5, "warmup_lr": 0.0, "min_lr": 1e-6,
    "cosine_from": "warmup", "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05, "clip": None,
    "no_decay": {"pos_embed", "cls_token"}, "decay": (), "drop_path": 0.1,
    "size": (224, 224), "test_size": (224, 224), "crop": (0.08, 1.0), "clamp": False, "filters": ("bicubic", "bicubic"),
    "crop_pct": 0.875, "repeats": 1, "rand_augment": "rand-m9-mstd0.5-inc1", "color_jitter": 0.0, "erase": 0.25,
    "mixup": 0.8, "cutmix": 1.0, "smoothing": 0.1, "loss": "ce", "ema": (None, 0), "pool": "mean", "norm": "new",
    "init_std": 2e-5,
}  # fmt: skip
PROBE = FINETUNE | {
    "algorithm": "lars", "batch": 16384, "epochs": 90, "lr": 6.4, "warmup": 10, "min_lr": 0.0, "weight_decay": 0.0,
    "momentum": 0.9, "no_decay": set(), "layer_decay": 1.0, "drop_path": 0.0, "clamp": True, "rand_augment": None,
    "erase": 0.0, "mixup": 0.0, "cutmix": 0.0, "smoothing": 0.0, "pool": "cls", "norm": "before", "init_std": 0.01,
}  # fmt: skip
SIMMIM = FINETUNE | {
    "batch": 2048, "lr": 5e-3, "warmup": 20, "warmup_lr": 1e-6, "cosine_from": "start", "clip": 5.0, "norm": "before",
    "init_std": 0.02, "no_decay": {"relative_position_bias_table"},
}  # fmt: skip
A2MIM = FINETUNE | {
    "lr": 1e-2, "warmup": 20, "clip": 5.0, "layer_decay": 0.65, "init_std": 0.01,
    "no_decay": {"pos_embed", "cls_token", "relative_position_bias_table"},
}  # fmt: skip
AVERAGED = A2MIM | {"ema": (0.99996, 20)}
RSB_A2 = FINETUNE | {
    "algorithm": "lamb", "batch": 2048, "epochs": 300, "lr": 5e-3, "warmup_lr": 5e-8, "cosine_from": "start",
    "eps": 1e-6, "weight_decay": 0.02, "clip": 1.0, "no_decay": set(), "decay": (r"downsample\.1\.weight",),
    "layer_decay": 1.0, "crop_pct": 0.95, "repeats": 3, "rand_augment": "rand-m7-mstd0.5-inc1", "erase": 0.0,
    "mixup": 0.1, "smoothing": 0.0, "loss": "bce", "norm": "before", "init_std": 0.01,
}  # fmt: skip
RSB_A3 = RSB_A2 | {
    "epochs": 100, "lr": 8e-3, "warmup_lr": 8e-8, "repeats": 1, "rand_augment": "rand-m6-mstd0.5-inc1",
    "size": (160, 160), "drop_path": 0.0,
}  # fmt: skip
CONVNEXT = FINETUNE | {
    "batch": 4096, "epochs": 300, "lr": 4e-3, "warmup_lr": 4e-8, "cosine_from": "start", "layer_decay": 1.0,
    "ema": (0.9999, 20), "norm": "after", "init_std": 0.02, "no_decay": set(),
    "decay": (r"stem\.1\.weight", r"downsample\.0\.weight"),
}  # fmt: skip
UM_PYRAMID = FINETUNE | {
    "lr": 2e-3, "layer_decay": 0.85, "size": (256, 256), "test_size": (256, 256), "crop_pct": 1.0, "no_decay": set(),
}  # fmt: skip
LARGE = FINETUNE | {"epochs": 50, "lr": 4e-3, "layer_decay": 0.75}
SIZE_192 = {"size": (192, 192), "test_size": (192, 192)}

TABLE = {
    "mae/finetune/vit_base_patch16_224_100ep": FINETUNE | {"lr": 2e-3, "layer_decay": 0.65},
    "mae/finetune/vit_large_patch16_224_50ep": LARGE | {"drop_path": 0.2},
    "mae/finetune/vit_huge_patch14_224_50ep": LARGE | {"drop_path": 0.3},
    "mae/probe/vit_base_patch16_224_90ep": PROBE,
    "mae/probe/vit_large_patch16_224_50ep": PROBE | {"epochs": 50},
    "mae/probe/vit_huge_patch14_224_50ep": PROBE | {"epochs": 50},
    "pixmim/finetune/vit_base_patch16_224_100ep": FINETUNE | {"lr": 2e-3, "layer_decay": 0.65, "warmup_lr": 2e-7},
    "pixmim/probe/vit_base_patch16_224_90ep": PROBE | {"warmup_lr": 6.4e-4, "filters": ("bicubic", "bilinear")},
    "convmae/finetune/convmae_base_224_100ep": FINETUNE | {"lr": 2e-3, "layer_decay": 0.65, "no_decay": {"pos_embed"}},
    "convmae/probe/convmae_base_224_90ep": PROBE | {"batch": 4096, "lr": 1.6, "pool": "mean", "norm": "new"},
    "simmim/finetune/swin_base_window6_192_100ep": SIMMIM | {"layer_decay": 0.9} | SIZE_192,
    "simmim/finetune/swin_base_window7_224_100ep": SIMMIM | {"layer_decay": 0.9},
    "simmim/finetune/swin_base_window7_224_800ep_100ep": SIMMIM | {"layer_decay": 0.8},
    "simmim/finetune/swin_large_window14_224_100ep": SIMMIM | {"layer_decay": 0.7, "drop_path": 0.2},
    "simmim/finetune/vit_base_patch16_224_100ep": SIMMIM
    | {"layer_decay": 0.65, "norm": "new", "init_std": 2e-5, "no_decay": {"cls_token"}},
    "um_mae/finetune/vit_base_patch16_224_100ep": FINETUNE | {"lr": 2e-3, "layer_decay": 0.8},
    "um_mae/finetune/swin_tiny_256_100ep": UM_PYRAMID,
    "um_mae/finetune/pvt_small_256_100ep": UM_PYRAMID | {"no_decay": {"pos_embed"}},
    "um_mae/finetune/swin_large_256_100ep": UM_PYRAMID | {"layer_decay": 0.7, "drop_path": 0.2},
    "a2mim/finetune/vit_small_patch16_224_200ep": A2MIM | {"epochs": 200},
    "a2mim/finetune/simmim_vit_small_patch16_224_100ep": A2MIM,
    "a2mim/finetune/vit_base_patch16_224_100ep": AVERAGED,
    "a2mim/finetune/vit_large_patch16_224_150ep": AVERAGED | {"epochs": 150, "repeats": 3},
    "a2mim/finetune/simmim_vit_large_patch16_224_100ep": AVERAGED | {"repeats": 3},
    "a2mim/finetune/resnet50_rsb_a2_300ep": RSB_A2 | {"drop_path": 0.05, "ema": (0.9999, 20)},
    "a2mim/finetune/resnet101_rsb_a2_300ep": RSB_A2 | {"drop_path": 0.1},
    "a2mim/finetune/resnet152_rsb_a2_300ep": RSB_A2 | {"drop_path": 0.15},
    "a2mim/finetune/resnet200_rsb_a2_300ep": RSB_A2 | {"drop_path": 0.2},
    **{f"a2mim/finetune/resnet{depth}_rsb_a3_100ep": RSB_A3 for depth in (50, 101, 152, 200)},
    "a2mim/finetune/convnext_small_300ep": CONVNEXT | {"drop_path": 0.4},
    "a2mim/finetune/convnext_base_300ep": CONVNEXT | {"drop_path": 0.5},
}


def recipe(config) -> dict:
    """Returns the settings of a config of classification under the names of the table."""
    data, optim, train, head, augment = config.data, config.optim, config.train, config.head, config.augment
    ema = getattr(config, "ema", EMA())
    assert data.crop.ratio == (3 / 4, 4 / 3) and data.flip == 0.5 and not optim.lr_scale
    assert data.repeats_together == (data.repeats > 1)
    found = {
        "algorithm": optim.algorithm, "batch": train.global_batch, "epochs": train.epochs,
        "lr": optim.blr * train.global_batch / optim.lr_batch, "warmup": optim.warmup_epochs,
        "warmup_lr": optim.warmup_lr, "min_lr": optim.min_lr, "cosine_from": optim.cosine_from, "betas": optim.betas,
        "eps": optim.eps, "weight_decay": optim.weight_decay, "clip": optim.clip, "no_decay": set(optim.no_decay),
        "decay": optim.decay, "layer_decay": optim.layer_decay, "drop_path": config.encoder.drop_path,
        "size": data.size, "test_size": data.test_size or data.size, "crop": data.crop.scale, "clamp": data.crop.clamp,
        "filters": (data.crop.interpolation, data.test_interpolation or data.crop.interpolation),
        "crop_pct": data.crop_pct, "repeats": data.repeats, "rand_augment": augment.rand_augment,
        "color_jitter": augment.color_jitter, "erase": augment.erase, "mixup": augment.mixup, "cutmix": augment.cutmix,
        "smoothing": augment.smoothing, "loss": augment.loss, "ema": (ema.decay, ema.warmup_epochs),
        "pool": head.pool, "norm": head.norm, "init_std": head.init_std,
    }  # fmt: skip
    if optim.algorithm == "lars":  # which has no betas and no eps of Adam
        found["momentum"] = optim.momentum
        found["betas"] = FINETUNE["betas"]
    return found


# The recipe of implus/mae_segmentation. A2MIM (openmixup) and PixMIM use it too, and so does ConvMAE except for the
# fields below.
SEGMENT = {
    "algorithm": "adamw", "batch": 16, "updates": 160_000, "lr": 1e-4, "schedule": "linear", "cosine_from": "start",
    "warmup": 1500, "warmup_lr": 1e-10, "min_lr": 0.0, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.05,
    "clip": None, "layer_decay": 0.65, "no_decay": {"pos_embed", "cls_token"}, "drop_path": 0.1, "size": (512, 512),
    "crop": ((0.5, 2.0), "cover", "bilinear"), "distort": True, "test": ("slide", (341, 341)), "classes": 150,
    "reduce_zero_label": True, "channels": 768, "blocks": (3, 5, 7, 11), "dropout": 0.1, "aux": (0.4, 256),
    "bn_batch": 16,
}  # fmt: skip
SEGMENT_TABLE = {
    "mae/segment/vit_base_patch16_512_160k": SEGMENT,
    "pixmim/segment/vit_base_patch16_512_160k": SEGMENT,
    "convmae/segment/convmae_base_512_160k": SEGMENT
    | {"drop_path": 0.2, "layer_decay": 0.75, "blocks": (), "no_decay": {"pos_embed"}},
    "a2mim/segment/vit_base_patch16_512_160k": SEGMENT
    | {"no_decay": {"pos_embed", "cls_token", "relative_position_bias_table"}},
}


def segment_recipe(config) -> dict:
    """Returns the settings of a config of segmentation. Epochs become updates over ADE20K's 20,210 training images."""
    data, optim, train, decoder = config.data, config.optim, config.train, config.decoder
    updates = 20_210 / train.global_batch
    assert data.flip == 0.5 and data.repeats == 1 and not optim.lr_scale and not optim.decay
    return {
        "algorithm": optim.algorithm, "batch": train.global_batch, "updates": train.epochs * updates,
        "lr": optim.blr * train.global_batch / optim.lr_batch, "schedule": optim.schedule,
        "cosine_from": optim.cosine_from, "warmup": optim.warmup_epochs * updates, "warmup_lr": optim.warmup_lr,
        "min_lr": optim.min_lr, "betas": optim.betas, "eps": optim.eps, "weight_decay": optim.weight_decay,
        "clip": optim.clip, "layer_decay": optim.layer_decay, "no_decay": set(optim.no_decay),
        "drop_path": config.encoder.drop_path, "size": data.size,
        "crop": (data.crop.scale, data.crop.fit, data.crop.interpolation), "distort": config.distort,
        "test": (data.test_mode, data.step), "classes": data.classes, "reduce_zero_label": data.reduce_zero_label,
        "channels": decoder.channels, "blocks": decoder.blocks, "dropout": decoder.dropout,
        "aux": (decoder.aux_weight, decoder.aux_channels), "bn_batch": decoder.bn_batch,
    }  # fmt: skip


def test_every_recipe_is_in_the_table():
    names = {path.relative_to(ROOT / "configs").as_posix().removesuffix(".py") for path in PATHS}
    assert names == set(TABLE) | set(SEGMENT_TABLE)


@pytest.mark.parametrize("name", SEGMENT_TABLE)
def test_segment_recipe(name):
    config, expected = load(ROOT / f"configs/{name}.py"), dict(SEGMENT_TABLE[name])
    found = segment_recipe(config)
    for field in ("updates", "lr", "warmup", "warmup_lr"):
        assert found.pop(field) == pytest.approx(expected.pop(field), rel=1e-9), field
    print(f"\n{name}: " + ", ".join(f"{field} {value}" for field, value in sorted(found.items())))
    assert found == expected
    assert total_steps(config, 20_210) == 160_000


@pytest.mark.parametrize("name", TABLE)
def test_recipe(name):
    found, expected = recipe(load(ROOT / f"configs/{name}.py")), dict(TABLE[name])
    for field in ("lr", "warmup_lr", "init_std"):
        assert found.pop(field) == pytest.approx(expected.pop(field), rel=1e-9), field
    print(f"\n{name}: " + ", ".join(f"{field} {value}" for field, value in sorted(found.items())))
    assert found == expected


MODELS = {
    "simmim/finetune/swin_base_window6_192_100ep": {"window": 6},
    "simmim/finetune/swin_base_window7_224_100ep": {"window": 7},
    "simmim/finetune/swin_large_window14_224_100ep": {"window": 14, "name": "swin_large_patch4_window7_224"},
    "simmim/finetune/vit_base_patch16_224_100ep": {"shared_bias": False, "absolute_pos": False, "layer_scale": 0.1},
    "um_mae/finetune/swin_tiny_256_100ep": {"window": 16, "embed_dim": 96},
    "um_mae/finetune/swin_large_256_100ep": {"window": 16, "embed_dim": 192},
    "um_mae/finetune/pvt_small_256_100ep": {"reductions": (8, 4, 2, 1)},
    "a2mim/finetune/vit_small_patch16_224_200ep": {"depth": 8, "num_heads": 8, "mlp_ratio": 3.0, "absolute_pos": True},
    "a2mim/finetune/vit_large_patch16_224_150ep": {"name": "beit_large_patch16_224"},
    "mae/finetune/vit_huge_patch14_224_50ep": {"name": "vit_huge_patch14_224", "pos": "learned"},
    **{f"a2mim/finetune/resnet{n}_rsb_a3_100ep": {"name": f"resnet{n}", "bn_batch": 2048} for n in (50, 101, 152, 200)},
}


@pytest.mark.parametrize("name", MODELS)
def test_model(name):
    encoder = load(ROOT / f"configs/{name}.py").encoder
    assert {field: getattr(encoder, field) for field in MODELS[name]} == MODELS[name]


# The settings of the papers, or of the source that the config's docstring names. Warm-up is in updates over COCO's
# 117,266 images with objects.
DETECT = {
    "algorithm": "adamw", "schedule": "multistep", "size": (1024, 1024), "warmup": 500, "weight_decay": 0.05,
    "batch": 16, "layer_decay": 1.0, "convs": (1, 4), "norm": "layer", "channels": 256, "flip": 0.5,
}  # fmt: skip
VITDET = DETECT | {
    "scale": (0.1, 2.0), "batch": 64, "epochs": 100, "decay_epochs": (88.89, 96.30), "warmup": 250, "weight_decay": 0.1,
    "lr": 1e-4, "drop_path": 0.1, "layer_decay": 0.7, "convs": (2, 4), "no_decay": {"pos_embed"},
}  # fmt: skip
SWIN_1X = DETECT | {
    "scale": (1.0, 1.0), "epochs": 12, "decay_epochs": (8, 11), "lr": 1e-4, "drop_path": 0.1, "no_decay": set(),
    "convs": (1, 0), "norm": "none",
}  # fmt: skip
DETECTORS = {
    "mae/detect/vit_base_patch16_1024_100ep": VITDET,
    "mae/detect/vit_large_patch16_1024_100ep": VITDET | {"drop_path": 0.4, "layer_decay": 0.8},
    "pixmim/detect/vit_base_patch16_1024_100ep": VITDET,
    "convmae/detect/convmae_base_1024_25ep": VITDET | {
        "batch": 32, "epochs": 25, "schedule": "cosine", "decay_epochs": (), "warmup": 0.005 * 25 * 117_266 / 32,
        "lr": 8e-5,
    },
    "simmim/detect/swin_base_window7_1024_36ep": SWIN_1X | {
        "scale": (0.6, 1.0), "epochs": 36, "decay_epochs": (27, 33), "drop_path": 0.3,
        "no_decay": {"relative_position_bias_table"},
    },
    "um_mae/detect/swin_tiny_1024_12ep": SWIN_1X,
    "um_mae/detect/pvt_small_1024_12ep": SWIN_1X | {"no_decay": {"pos_embed"}},
    "a2mim/detect/resnet50_fpn_1024_24ep": DETECT | {
        "algorithm": "sgd", "momentum": 0.9, "scale": (0.8, 1.0), "epochs": 24, "decay_epochs": (16, 23), "lr": 0.02,
        "warmup": 1000, "weight_decay": 1e-4, "drop_path": 0.0, "no_decay": set(),
    },
    "a2mim/detect/vit_base_patch16_1024_12ep": DETECT | {
        "scale": (0.6, 1.0), "epochs": 12, "decay_epochs": (9, 11), "lr": 3e-4, "drop_path": 0.2,
        "no_decay": {"cls_token", "pos_embed", "relative_position_bias_table"},
    },
}  # fmt: skip


def test_every_detector_is_in_the_table():
    paths = ROOT.glob("configs/*/detect/*.py")
    assert {path.relative_to(ROOT / "configs").as_posix().removesuffix(".py") for path in paths} == set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_detector(name):
    config, expected = load(ROOT / f"configs/{name}.py"), dict(DETECTORS[name])
    data, optim, train, rcnn = config.data, config.optim, config.train, config.rcnn
    assert optim.decay_rate == 0.1 and optim.clip is None
    lr = optim.blr * train.global_batch / optim.lr_batch
    assert optim.warmup_lr == pytest.approx(lr / 1000)
    found = {
        "algorithm": optim.algorithm, "schedule": optim.schedule, "size": data.size, "scale": data.crop.scale,
        "flip": data.flip, "batch": train.global_batch, "epochs": train.epochs, "weight_decay": optim.weight_decay,
        "layer_decay": optim.layer_decay, "drop_path": config.encoder.drop_path, "no_decay": set(optim.no_decay),
        "convs": (rcnn.rpn_convs, rcnn.box_convs), "norm": rcnn.norm, "channels": rcnn.channels,
    }  # fmt: skip
    if optim.algorithm == "sgd":
        found["momentum"] = optim.momentum
    else:
        assert optim.betas == (0.9, 0.999)
    print(f"\n{name}: " + ", ".join(f"{field} {value}" for field, value in sorted(found.items())))
    assert optim.decay_epochs == pytest.approx(expected.pop("decay_epochs"), abs=0.01)
    assert lr == pytest.approx(expected.pop("lr"))
    assert optim.warmup_epochs * 117_266 / train.global_batch == pytest.approx(expected.pop("warmup"), rel=0.03)
    assert found == expected
