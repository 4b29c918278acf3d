"""The segmenter on every encoder: loss, windows, counts, levels."""

import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fastmim.config.base import Train
from fastmim.config.segment import MaskData, Segment, UPerNet
from fastmim.data.crops import ScaleJitterCrop
from fastmim.engine.optim import parameter_groups
from fastmim.model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.model.pyramid import PyramidLevels
from fastmim.model.segmenter import compare, confusion, overlap, slide, starts
from fastmim.samples import sample_id
from fastmim.tasks.segment import build_segmenter
from tests.methods.tiny import ENCODERS

KINDS = (ViT, BEiT, Swin, UMSwin, UMPVT, ConvMAE, ResNet, ConvNeXt)
SMALL = {"channels": 16, "aux_channels": 8}


def config(kind=ViT, size=(64, 64), decoder=None, train=None, **fields):
    data = MaskData(crop=ScaleJitterCrop(), size=size, classes=5)
    encoder = kind(**ENCODERS[kind.__name__] | fields)
    return Segment(encoder=encoder, data=data, decoder=decoder or UPerNet(**SMALL), train=train or Train())


def batch(size=(64, 64), count=2):
    torch.manual_seed(0)
    labels = torch.randint(0, 5, (count, *size), dtype=torch.uint8)
    labels[:, :9] = 255
    return torch.randint(0, 256, (count, *size, 3), dtype=torch.uint8), sample_id(torch.arange(count), 0), labels


@pytest.mark.parametrize("kind", KINDS)
def test_every_encoder_trains(kind):
    """All parameters have gradients, with and without checkpointing; logits have the size of the images."""
    size, found = (64, 128), []
    for again in (False, True):
        module = build_segmenter(
            config(kind, size, UPerNet(**SMALL, dropout=0.0), Train(activation_checkpointing=again))
        )
        module.train()
        for part in module.modules():
            if hasattr(part, "drop_prob"):
                part.drop_prob = 0.0
        torch.manual_seed(0)
        loss = module(*batch(size))
        assert loss.ndim == 0 and abs(loss.item() - 1.4 * np.log(5) * (1 - 9 / 64)) < 0.7
        loss.backward()
        missing = [name for name, p in module.named_parameters() if p.requires_grad and p.grad is None]
        assert not missing
        found.append({name: p.grad for name, p in module.named_parameters() if p.requires_grad})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3, msg=name)
    with torch.no_grad():
        logits = module.eval().predict(batch(size)[0])
    assert logits.shape == (2, 5, *size) and logits.dtype == torch.float32


def test_levels():
    with pytest.raises(ValueError, match=r"data\.size=\(64, 24\): expected at least 32 pixels a side"):
        PyramidLevels((4, 8), (8, 16), (64, 24))
    plain = PyramidLevels((16,), (32,), (64, 64))
    x = torch.randn(1, 32, 4, 6)
    assert (plain.strides, plain.widths) == ((4, 8, 16, 32), (8, 16, 32, 32))
    assert [tuple(y.shape) for y in plain([x])] == [(1, 8, 16, 24), (1, 16, 8, 12), (1, 32, 4, 6), (1, 32, 2, 3)]
    for one, other in zip(plain([x]), plain([x] * 4), strict=True):
        assert torch.equal(one, other)
    three = PyramidLevels((4, 8, 16), (8, 16, 32), (64, 64))
    maps = [torch.randn(1, 8, 16, 24), torch.randn(1, 16, 8, 12), x]
    assert (three.strides, three.widths) == ((4, 8, 16, 32), (8, 16, 32, 32))
    assert torch.equal(three(maps)[3], F.max_pool2d(x, 2)) and three(maps)[:3] == maps
    four = PyramidLevels((4, 8, 16, 32), (8, 16, 32, 64), (64, 64))
    assert four.widths == (8, 16, 32, 64) and four([*maps, x]) == [*maps, x]


@pytest.mark.parametrize("kind", [ViT, BEiT])
def test_maps_of_blocks_are_what_leaves_them(kind):
    encoder = build_segmenter(config(kind, depth=5)).encoder.eval()
    images, caught = torch.randn(2, 3, 64, 64), {}
    blocks = encoder.blocks if kind is ViT else encoder.backbone.blocks
    hooks = [
        block.register_forward_hook(lambda module, inputs, x, i=i: caught.update({i: x}))
        for i, block in enumerate(blocks)
    ]
    with torch.no_grad():
        encoder.features(images)
        for hook in hooks:
            hook.remove()
        maps = encoder.block_maps(images, (0, 1, 3, 4))
    for i, x in zip((0, 1, 3, 4), maps, strict=True):
        assert torch.equal(x, caught[i][:, 1:].transpose(1, 2).unflatten(2, encoder.grid))


def test_blocks_that_are_not_there_are_refused():
    for blocks, kind, message in (
        ((0, 1, 2, 9), ViT, "expected 4 of 2 blocks"),
        ((1, 0, 1, 1), ViT, "ascending from 0"),
        ((0, 1, 2, 3), Swin, "SwinEncoder has its own maps"),
    ):
        with pytest.raises(ValueError, match=message):
            build_segmenter(config(kind, decoder=UPerNet(**SMALL, blocks=blocks)))
    with pytest.raises(ValueError, match="expected the last of 6 blocks, 5, at the end"):
        build_segmenter(config(decoder=UPerNet(**SMALL, blocks=(0, 1, 2, 3)), depth=6))
    build_segmenter(config(decoder=UPerNet(**SMALL, blocks=(0, 1, 2, 5)), depth=6))
    with pytest.raises(ValueError, match="expected none or 4"):
        UPerNet(blocks=(1, 2))


def test_layer_decay_reaches_the_encoder_only():
    module = build_segmenter(config())
    optim = config().optim
    groups = parameter_groups(module, type(optim)(layer_decay=0.5))
    scales = {name: group["lr_scale"] for group in groups for name in group["names"]}
    blocks = len(module.encoder.blocks)
    assert scales["encoder.patch_embed.proj.weight"] == 0.5 ** (blocks + 1)
    assert scales[f"encoder.blocks.{blocks - 1}.mlp.fc1.weight"] == 0.5
    assert {scale for name, scale in scales.items() if not name.startswith("encoder.")} == {1.0}


def test_ignored_pixels_count_as_nothing():
    """Two of four pixels have a class, and the divisor is four."""
    logits = torch.tensor([[[[2.0, 0.0], [1.0, 5.0]], [[0.0, 1.0], [1.0, -5.0]]]])
    labels = torch.tensor([[[0, 255], [1, 255]]])
    expected = (np.log1p(np.exp(-2)) + np.log(2)) / 4
    assert compare(logits, labels).item() == pytest.approx(expected, rel=1e-6)
    logits.requires_grad_()
    compare(logits, torch.full_like(labels, 255)).backward()
    assert logits.grad.abs().sum() == 0


def test_counts_against_a_hand_count():
    """3 classes, and pixels of none.

    labels 0 0 1 1 255    found 0 1 1 1 0
           2 2 2 255 0          2 0 2 1 2
    """
    labels = torch.tensor([[0, 0, 1, 1, 255], [2, 2, 2, 255, 0]], dtype=torch.uint8)
    found = torch.tensor([[0, 1, 1, 1, 0], [2, 0, 2, 1, 2]])
    matrix = confusion(F.one_hot(found, 3).permute(2, 0, 1).float(), labels)
    assert matrix.dtype == torch.int64 and matrix.tolist() == [[1, 1, 1], [0, 2, 0], [1, 0, 2]]
    ious, miou, accuracy = overlap(matrix)
    assert ious == [1 / 4, 2 / 3, 2 / 4] and miou == pytest.approx(17 / 36) and accuracy == 5 / 8


def test_a_class_that_is_nowhere_is_left_out():
    ious, miou, accuracy = overlap(torch.tensor([[4, 0, 0], [2, 0, 0], [0, 0, 0]]))
    assert ious == [4 / 6, 0.0, None] and miou == pytest.approx(1 / 3) and accuracy == 4 / 6
    assert overlap(torch.zeros(3, 3, dtype=torch.int64)) == ([None] * 3, None, None)


def test_counts_agree_with_torchmetrics():
    import torchmetrics  # here, as it takes a second or two

    torch.manual_seed(0)
    logits, labels = torch.randn(6, 20, 30), torch.randint(0, 6, (40, 60), dtype=torch.uint8)
    labels[:3] = 255
    found = F.interpolate(logits[None], (40, 60), mode="bilinear").argmax(dim=1)[0]
    matrix = confusion(logits, labels)
    metric = torchmetrics.JaccardIndex("multiclass", num_classes=6, ignore_index=255, average="none")
    expected = metric(found, labels.long())
    assert overlap(matrix)[0] == pytest.approx(expected.tolist())


def test_windows():
    """Windows are MMSegmentation's: 512 pixels every 341 of 683 and 512 pixels."""
    assert starts(683, 512, 341) == [0, 171] and starts(512, 512, 341) == [0] and starts(100, 512, 341) == [0]
    assert starts(1365, 512, 341) == [0, 341, 682, 853] and starts(1194, 512, 341) == [0, 341, 682]
    for full in range(1, 200):
        found = starts(full, 32, 20)
        assert found == sorted(set(found)) and found[-1] == max(full - 32, 0)
        assert all(b - a <= 20 for a, b in zip(found, found[1:], strict=False))


class Positions(torch.nn.Module):
    """A stand-in for a segmenter; its logits are the image's values and the number of the window."""

    mean = torch.tensor([0.5, 0.5, 0.5])

    def predict(self, images):
        numbers = torch.arange(len(images)).view(-1, 1, 1, 1).expand(-1, *images.shape[1:3], 1)
        return torch.cat([images.float(), numbers], dim=-1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [(32, 32), (50, 40), (33, 97), (20, 70), (9, 7)])
def test_slide_averages_what_windows_see(size):
    image = torch.randint(0, 256, (*size, 3), dtype=torch.uint8)
    logits = slide(Positions(), image, (32, 32), (20, 20))
    assert torch.equal(logits[:3], image.permute(2, 0, 1).float())
    if size == (50, 40):  # windows 0, 1 above; 2, 3 below; columns from 0 and 8, rows from 0 and 18
        assert logits[3, 0, 0] == 0 and logits[3, 0, 39] == 1 and logits[3, 49, 0] == 2 and logits[3, 49, 39] == 3
        assert logits[3, 25, 20] == 1.5 and logits[3, 0, 20] == 0.5


def test_one_window_is_the_whole():
    module = build_segmenter(config()).eval()
    images = batch(count=1)[0]
    with torch.no_grad():
        assert torch.equal(slide(module, images[0], (64, 64), (40, 40)), module.predict(images)[0])
        small = slide(module, images[0, :50, :30], (64, 64), (40, 40))
        padded = torch.tensor([124, 116, 104], dtype=torch.uint8).expand(1, 64, 64, 3).clone()
        padded[0, :50, :30] = images[0, :50, :30]
        assert torch.equal(small, module.predict(padded)[0, :, :50, :30])


def test_bf16_weights():
    module = build_segmenter(config()).to(torch.bfloat16)
    loss = module(*batch())
    loss.backward()
    assert torch.isfinite(loss) and module.predict(batch()[0]).dtype == torch.float32


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "segmentation_models_pytorch.decoders.upernet.decoder", None)
    with pytest.raises(ValueError, match="segmentation needs segmentation-models-pytorch, .*: run `pip install segm"):
        build_segmenter(config())


def test_the_second_head_is_optional():
    module = build_segmenter(config(decoder=UPerNet(**SMALL, aux_weight=0.0)))
    assert not [name for name in module.state_dict() if name.startswith("aux")]
    module(*batch()).backward()
