"""The detector: maps, pyramids, losses, gradients, detections, targets that move with the pixels, scores."""

import json
import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from fastmim.analysis.average_precision import SCORES, average_precision
from fastmim.config.base import Optim
from fastmim.config.detect import RCNN, AnnotatedData, Detect
from fastmim.data.coco import Annotations, decode, segmentation
from fastmim.data.crops import CenterCrop, RandomResizedCrop, ScaleJitterCrop, SimpleResizedCrop
from fastmim.data.loader import open_loader
from fastmim.data.manifest import Manifest
from fastmim.data.quarantine import Quarantine
from fastmim.engine.optim import parameter_groups
from fastmim.model.encoders import UMPVT, BEiT, ConvMAE, ConvNeXt, ResNet, Swin, UMSwin, ViT
from fastmim.samples import sample_id
from fastmim.tasks.detect import build_detector, coco_results
from tests.methods.tiny import ENCODERS
from tests.shapes import CATEGORIES, write_shapes

SIDE = 128
SMALL = RCNN(channels=16, box_convs=1, box_width=32, mask_convs=1, proposals=32)


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shapes")
    write_shapes(folder, "train", 12, seed=1)
    return folder


def data(shapes, **fields):
    files = {"root": str(shapes / "train"), "annotations": str(shapes / "train.json"), "loader": "pillow"}
    files |= {"test": files["root"], "test_annotations": files["annotations"]}
    return AnnotatedData(**{"crop": ScaleJitterCrop((0.3, 2.0)), "size": (SIDE, SIDE)} | files | fields)


def loaded(shapes, ids, data, root=None):
    """Returns a batch of training samples and the cut of each."""
    manifest = Manifest.scan(str(root or data.root))
    arguments = (Quarantine(manifest, 0), torch.arange(len(manifest)), torch.device("cpu"))
    with open_loader(manifest, data, 5, *arguments) as loader:
        (batch,) = loader.loaded_batches([ids])
        return batch, loader.cuts(batch.ids, batch.sizes), manifest


def detector(shapes, kind, rcnn=SMALL, **fields):
    config = Detect(encoder=kind(**ENCODERS[kind.__name__] | fields), data=data(shapes), rcnn=rcnn)
    return build_detector(config, len(CATEGORIES))


def batch_of(shapes, ids):
    annotations = Annotations(str(shapes / "train.json"))
    batch, cuts, manifest = loaded(shapes, ids, data(shapes))
    names = [manifest.paths[i] for i in batch.indices]
    return batch.images, [annotations.target(n, *c, (SIDE, SIDE)) for n, c in zip(names, cuts, strict=True)]


@pytest.mark.parametrize("kind", [ViT, BEiT, Swin, UMSwin, UMPVT, ConvMAE, ResNet, ConvNeXt])
def test_every_encoder_detects(kind, shapes):
    """All trained parameters have a gradient, layer decay reaches the encoder only, boxes lie in the sample."""
    model = detector(shapes, kind)
    images, targets = batch_of(shapes, torch.arange(4))
    torch.manual_seed(0)
    loss = model(images, torch.arange(4), targets)
    loss.backward()
    assert torch.isfinite(loss) and loss.shape == ()
    assert not [name for name, p in model.named_parameters() if p.requires_grad and p.grad is None]
    groups = parameter_groups(model, Optim(layer_decay=0.5))
    slow = {name for group in groups for name in group["names"] if group["lr_scale"] < 1}
    assert slow and all(name.startswith("encoder.") for name in slow)
    names = [name for name, _ in model.named_parameters()]
    assert all(name.startswith("encoder.") for name in names[: next(i for i, n in enumerate(names) if "pyramid" in n)])
    with torch.no_grad():
        found = model.eval().predict(images)
    assert len(found) == 4
    for image in found:
        assert image["masks"].shape[1:] == (1, 28, 28) and len(image["boxes"]) == len(image["scores"]) <= 100
        assert (image["boxes"] >= 0).all() and (image["boxes"] <= SIDE).all() and (image["scores"].diff() <= 0).all()


@pytest.mark.parametrize("norm", ["layer", "none"])
@pytest.mark.parametrize("box_convs", [0, 2])
def test_heads(norm, box_convs, shapes):
    model = detector(shapes, ResNet, replace(SMALL, norm=norm, box_convs=box_convs))
    images, targets = batch_of(shapes, torch.arange(2))
    model(images, torch.arange(2), targets).backward()
    norms = sum(type(module).__name__ == "LayerNorm2d" for module in model.modules())
    assert norms == (0 if norm == "none" else 8 + box_convs + SMALL.mask_convs)


def test_pyramid_of_a_plain_vit(shapes):
    """Strides go from a quarter to twice the patch, plus one for proposals; anchors are eight strides large."""
    model = detector(shapes, ViT)
    maps = model.pyramid([torch.randn(1, 32, 8, 8)])
    assert [tuple(x.shape) for x in maps] == [(1, 16, n, n) for n in (32, 16, 8, 4, 2)]
    assert [size for (size,) in model.rpn.anchor_generator.sizes] == [32, 64, 128, 256, 512]


def test_proposals_are_drawn_from_the_seed_alone(shapes):
    model = detector(shapes, ResNet, replace(SMALL, proposals=4))
    images, targets = batch_of(shapes, torch.arange(4))
    found = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        found.append(model.eval().train()(images, torch.arange(4), targets).item())
    assert found[0] == found[1] != found[2]


def test_sixteen_bits(shapes):
    """Anchors, boxes and scores are float32 at every precision of the maps."""
    from torchvision.ops import box_iou

    images, targets = batch_of(shapes, torch.arange(2))
    plain = detector(shapes, ViT).eval()
    with torch.no_grad():
        expected = plain.predict(images)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        found = plain.predict(images)
    cast = detector(shapes, ViT).to(torch.bfloat16)
    cast(images, torch.arange(2), targets).backward()
    with torch.no_grad():
        for detected in (found, cast.eval().predict(images)):
            assert {v.dtype for image in detected for k, v in image.items() if k != "labels"} == {torch.float32}
            for image, exact in zip(detected, expected, strict=True):
                same = image["labels"][:, None] == exact["labels"]
                overlaps, match = (same * box_iou(image["boxes"], exact["boxes"])).max(dim=1)
                near = overlaps > 0.99
                assert near.float().mean() > 0.9
                assert (image["scores"] - exact["scores"][match])[near].abs().max() < 0.005
    for model in (plain, cast):
        assert {anchors.dtype for anchors in model.rpn.anchor_generator.cell_anchors} == {torch.float32}


def test_targets_move_with_the_pixels(shapes):
    """Masks that are cut and flipped equal pictures of the masks through the loader, except at borders."""
    annotations, spec = Annotations(str(shapes / "train.json")), data(shapes)
    manifest = Manifest.scan(spec.root)
    ids = torch.cat([sample_id(torch.arange(12), epoch) for epoch in range(4)])
    batch, cuts, _ = loaded(shapes, ids, spec)
    assert {flip for _, flip in cuts} == {True, False}
    assert {cut.resized == spec.size for cut, _ in cuts} == {True, False}
    for number in range(4):  # the n-th object of every image, in white on black
        folder = shapes / f"mask{number}"
        folder.mkdir(exist_ok=True)
        for name, image in annotations.images.items():
            objects = annotations.of(name)[1]
            size = image["height"], image["width"]
            mask = decode(objects[number]["segmentation"], size) if number < len(objects) else np.zeros(size, np.uint8)
            Image.fromarray(np.repeat(255 * mask[..., None], 3, axis=2)).save(folder / name)
    black = replace(spec, mean=(0.0, 0.0, 0.0))
    pictures = [loaded(shapes, ids, black, shapes / f"mask{n}")[0].images[..., 0] > 127 for n in range(4)]
    off = []
    for i, (index, (cut, flip)) in enumerate(zip(batch.indices.tolist(), cuts, strict=True)):
        target = annotations.target(manifest.paths[index], cut, flip, spec.size)
        there = [p[i] for p in pictures if p[i].sum() > 20]
        assert len(target["boxes"]) >= len(there)
        for mask in there:
            overlaps = (mask & target["masks"].bool()).sum(dim=(1, 2)) / (mask | target["masks"].bool()).sum(dim=(1, 2))
            best = overlaps.argmax()
            assert overlaps[best] > 0.85
            rows, columns = (torch.nonzero(mask.any(dim=d))[:, 0] for d in (1, 0))
            expected = torch.stack([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]).float()
            off.append((target["boxes"][best] - expected).abs())
    off = torch.stack(off)
    assert len(off) > 40 and off.max() < 8 and off.median() < 0.6  # a triangle's tip is no pixel of its mask


def truth(annotations):
    """Returns the annotations in the form of detections."""
    from pycocotools import mask as coco

    found = []
    for image in annotations.images.values():
        for entry in annotations.objects[image["id"]]:
            mask = decode(entry["segmentation"], (image["height"], image["width"]))
            found.append({name: entry[name] for name in ("image_id", "category_id", "bbox")})
            found[-1] |= {"segmentation": coco.encode(np.asfortranarray(mask)), "score": 0.9}
    return found


def test_scores(shapes):
    """Perfect detections score 1, none 0, half about a half, wrong classes 0; absent sizes have no score."""
    annotations = Annotations(str(shapes / "train.json"))
    found = truth(annotations)
    perfect = average_precision(annotations, found)
    assert tuple(perfect) == SCORES
    large = {name for name, value in perfect.items() if np.isnan(value)}
    assert large == {"bbox_AP_large", "segm_AP_large"}
    assert all(value == pytest.approx(1.0) for name, value in perfect.items() if name not in large)
    assert average_precision(annotations, [])["bbox_AP"] == 0
    assert 0.3 < average_precision(annotations, found[::2])["segm_AP"] < 0.7
    wrong = [entry | {"category_id": {3: 7, 7: 11, 11: 3}[entry["category_id"]]} for entry in found]
    assert average_precision(annotations, wrong)["bbox_AP"] < 0.3
    moved = [entry | {"bbox": [entry["bbox"][0] + 200, *entry["bbox"][1:]]} for entry in found]
    scores = average_precision(annotations, moved)
    assert scores["bbox_AP"] == 0 and scores["segm_AP"] == pytest.approx(1.0)


def test_detections_come_back_to_the_image(shapes):
    """Targets of the resized and padded image, taken as detections, score 1 in the image's own pixels."""
    annotations, found = Annotations(str(shapes / "train.json")), []
    spec = data(shapes, crop=ScaleJitterCrop((1.0, 1.0)), flip=0.0)
    batch, cuts, manifest = loaded(shapes, torch.arange(12), spec)
    for index, (cut, flip) in zip(batch.indices.tolist(), cuts, strict=True):
        target = annotations.target(manifest.paths[index], cut, flip, spec.size)
        crops = [
            torch.nn.functional.interpolate(
                mask[None, None, int(y0) : round(y1), int(x0) : round(x1)].float(), (28, 28), mode="area"
            )
            for mask, (x0, y0, x1, y1) in zip(target["masks"], target["boxes"].tolist(), strict=True)
        ]
        padding = {"boxes": torch.tensor([[1.0, 1, 9, 9]]) + SIDE, "labels": torch.ones(1).long()}
        detected = {name: torch.cat([target[name], padding[name]]) for name in padding}
        detected |= {"scores": torch.ones(len(crops) + 1), "masks": torch.cat([*crops, torch.ones(1, 1, 28, 28)])}
        found += coco_results(annotations, manifest.paths[index], cut, detected)
    assert len(found) == sum(map(len, annotations.objects.values()))
    scores = average_precision(annotations, found)
    assert scores["bbox_AP"] == pytest.approx(1.0) and scores["segm_AP75"] == pytest.approx(1.0)
    assert scores["segm_AP"] > 0.8


def test_crowds_and_images_without_objects(shapes, tmp_path):
    content = json.loads((shapes / "train.json").read_text())
    first = content["images"][0]["id"]
    for entry in content["annotations"]:
        entry["iscrowd"] = int(entry["image_id"] == first)
        del entry["area"]
    (tmp_path / "other.json").write_text(json.dumps(content))
    annotations, manifest = Annotations(str(tmp_path / "other.json")), Manifest.scan(str(shapes / "train"))
    assert len(annotations.within(manifest, with_objects=True)) == 11
    assert len(annotations.within(manifest, with_objects=False)) == 12
    areas = [entry["area"] for entry in Annotations(str(shapes / "train.json")).truth()]
    assert [entry["area"] for entry in annotations.truth()] == areas and None not in areas


WRONG_COUNTS = [None, 5, [], [-1, 2], [1.5], [10**400], ["a"], [128 * 128 + 1], [0, 5], "", "\x00", "é", "o" * 9, "13"]


def mask(counts):
    def change(content):
        image = {image["id"]: image for image in content["images"]}[content["annotations"][2]["image_id"]]
        size = [image["height"], image["width"]]
        content["annotations"][2]["segmentation"] = {"size": size, "counts": counts}

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("categories"), "expected COCO's format"),
        (lambda c: c["annotations"][0].update(category_id=4), "annotation 0: category_id 4 is none of"),
        (lambda c: c["annotations"][1].update(segmentation=[]), "annotation 1: no segmentation: Mask R-CNN needs"),
        (lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3, 4, 5, 6, 7]]), "expected x, y, x, y"),
        (
            lambda c: c["annotations"][1].update(segmentation=[[1, 2, 3, 1e9, 5, 6]]),
            "expected x, y, .* within an image",
        ),
        (lambda c: c["annotations"].append(3), r"annotations\[\d+\]: expected an object, got 3"),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, float("nan"), 4]), "annotation 2: bbox: expected 4 numbers"),
        (lambda c: c["annotations"][2].update(image_id=9), "annotation 2: image_id: 9 is none of the images"),
        (lambda c: c["annotations"][2].update(image_id=[]), "annotation 2: image_id: a list of 0 is none"),
        (lambda c: c["annotations"][2].update(image_id=True), "annotation 2: image_id: true is none"),
        (lambda c: c["annotations"][2].update(id="\x1b[31m", bbox=None), r'annotation "\\u001b\[31m": bbox'),
        (lambda c: c["annotations"][2].update(bbox=[1, 2, 10**400, 4]), "annotation 2: bbox: expected 4 numbers"),
        (lambda c: c["annotations"][2].update(bbox={}), "annotation 2: bbox: expected 4 numbers"),
        (lambda c: c["annotations"][2].update(category_id=1.0), "annotation 2: category_id 1.0 is none"),
        (lambda c: c["annotations"][2].update(iscrowd="x"), "annotation 2: iscrowd: expected 0 or 1"),
        (lambda c: c["annotations"][2].update(area=float("nan")), "annotation 2: area: expected a number of pixels"),
        (lambda c: c["annotations"][2].update(segmentation="0"), "annotation 2: segmentation: expected x, y"),
        (lambda c: c["annotations"][2].update(segmentation=[[[1, 2], [3, 4], [5, 6]]]), "a value that is no number"),
        (lambda c: c["annotations"][2].update(segmentation=[["a"] * 6]), "got a value that is no number"),
        (lambda c: c["annotations"][2].update(segmentation=[[0, 0, 90, 90] * 9999]), "at most .* pixels around, got 1"),
        (lambda c: c["annotations"][2].update(segmentation=[[1, 1, 2, 1, 2, 2]] * 1001), "at most 1000 polygons"),
        (lambda c: c["annotations"][2].update(segmentation={"size": [1, 1]}), "the mask has 1 x 1 pixels"),
        (lambda c: c["annotations"][2].update(segmentation={"size": None}), "the mask has null pixels"),
        *((mask(counts), "expected runs that make up the image's") for counts in WRONG_COUNTS),
        (lambda c: c["images"][1].update(id=None), r"images\[1\]: id: expected a whole number"),
        (lambda c: c["images"][1].update(id=[1]), r"images\[1\]: id: expected a whole number"),
        (lambda c: c["images"][1].update(file_name=7), r"images\[1\]: file_name: expected text"),
        (lambda c: c["images"][1].update(height=10**9), r"images\[1\]: height and width: .* 1000000000 and"),
        (lambda c: c["images"][1].update(width=-1.5), r"images\[1\]: height and width"),
        (lambda c: c["images"].append([]), r"images\[12\]: expected an object"),
        (lambda c: c["categories"].append({"id": "1", "name": "x"}), r"categories\[\d\]: expected a whole number"),
        (lambda c: c["categories"].append(c["categories"][0]), "each with its own id"),
        (lambda c: c.update(images={}), "images: expected a list, got an object of 0"),
        (lambda c: c["images"].append(c["images"][0]), "each with its own id and file_name"),
        (lambda c: c["images"][0].update(file_name="x.png"), "names 1 of 12 images that are not in .*x.png"),
    ],
)
def test_files_that_are_refused(change, message, shapes, tmp_path):
    content = json.loads((shapes / "train.json").read_text())
    change(content)
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match=message):
        Annotations(str(tmp_path / "a.json")).within(Manifest.scan(str(shapes / "train")), with_objects=True)


@pytest.mark.parametrize(
    "text",
    [
        *("[" * 10**6, '{"images": [' + "[]," * 10**6, '{"a":' * 10**6, "\xff", '{"images": 1' + "1" * 5000 + "}"),
        *('{"images":[' + '"",' * 15 * 10**5, '{"x":{' + '"":0,' * 15 * 10**5),
    ],
    ids=["deep", "wide", "objects", "binary", "a long number", "texts", "keys"],
)
def test_files_that_are_no_annotations_are_refused_in_little_memory(text, tmp_path):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"a\.json: expected COCO's format") as error:
            Annotations(str(tmp_path / "a.json"))
        assert tracemalloc.get_traced_memory()[1] < 4 * len(text) + 2**20
    finally:
        tracemalloc.stop()
    assert str(error.value).isprintable()


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"annotations .*a\.json cannot be read: No such file"):
        Annotations(str(tmp_path / "a.json"))
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(ValueError, match=r"a\.json: expected a file, found a named pipe"):
        Annotations(str(tmp_path / "a.json"))


def test_compressed_masks_are_as_pycocotools_reads_them():
    from pycocotools import mask as coco

    rng = np.random.default_rng(0)
    for shape, share in (((40, 30), 0.5), ((300, 200), 0.01), ((7, 9), 0.0), ((7, 9), 1.0)):
        whole = np.asfortranarray(rng.random(shape) < share, np.uint8)
        code = coco.encode(whole)
        found = segmentation({"size": list(shape), "counts": code["counts"].decode()}, shape)
        assert np.array_equal(decode(found, shape), whole)
        lengths = np.diff(np.flatnonzero(np.diff(np.r_[2, whole.T.ravel(), 2])))
        runs = np.r_[[0] if whole[0, 0] else [], lengths]
        assert np.array_equal(decode(segmentation({"size": list(shape), "counts": runs}, shape), shape), whole)


def test_boxes_do_not_follow_reflections():
    for crop in (ScaleJitterCrop(), RandomResizedCrop(), CenterCrop()):
        AnnotatedData(crop=crop)
    for pad in (0, 4):
        with pytest.raises(ValueError, match="data.crop: SimpleResizedCrop .* use ScaleJitterCrop"):
            AnnotatedData(crop=SimpleResizedCrop(pad))
