"""Comparisons of the transfer campaign: commands and the numbers that they leave, by data set and network."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Arm:
    """One command, and where it leaves its number.

    Attributes:
        words: the command after `python`. {data}, {run} (folder of all runs of a seed) and {seed} are filled in.
        found: FILE:NAME of the number, in {run}; "" = the command leaves no number.
        files: sources that this arm depends on, besides those of every arm.
    """

    words: str
    found: str = ""
    files: tuple[str, ...] = ()

    @property
    def folder(self) -> str | None:
        """Name of the run folder that the command makes in {run}, or None."""
        words = self.words.split()
        return words[words.index("--run.dir") + 1].removeprefix("{run}/") if "--run.dir" in words else None


@dataclass(frozen=True)
class Comparison:
    """Two arms, of which the first must score higher.

    The second arm must have had the CPU time of the arms in `budget` together.
    """

    better: str
    worse: str
    budget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """Comparisons on one data set.

    Attributes:
        data: makes the folder {data} from the user's folder, or from nothing.
        arms: the arms by name; each may need the folders of those before it.
        comparisons: pairs of arms.
        files: sources that `data` depends on.
    """

    data: Callable[[Path, Path | None], None]
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]
    files: tuple[str, ...] = ()


def few_labels(folder: Path, source: Path | None) -> None:
    """Links and copies CIFAR-10 with few labels.

    {data}/all has no labels. {data}/few has 100 training and 200 test images a class. {data}/fewer has 10 training
    images a class and all test images.

    Raises:
        ValueError: `source` has another layout.
    """
    if source is None or not all(any(source.glob(f"{part}/*/0000.jpg")) for part in ("train", "test")):
        raise ValueError(f"--data: expected CIFAR-10 as train/CLASS/0000.jpg and on, and test/CLASS/..., got {source}")
    parts = {"few": ("train/*/00??.jpg", "test/*/0[01]??.jpg"), "fewer": ("train/*/000?.jpg", "test/*/*.jpg")}
    for part, kinds in parts.items():
        for image in (image for images in kinds for image in source.glob(images)):
            copy = folder / part / image.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, copy)
    (folder / "all").symlink_to(source.resolve() / "train")


def classification(network: str, pretraining: str, part: str, scratch: str, budget_epochs: int) -> Proof:
    """Returns probe, k-NN and fine-tuning on few labels, each against random initialisation.

    Args:
        network: "vit" or "resnet", as in the names of the configs.
        pretraining: name of the pre-training config.
        part: part of `few_labels` for fine-tuning; probe and k-NN use "few".
        scratch: settings for training from scratch, which give better results there than those of fine-tuning.
        budget_epochs: epochs from scratch that take as long as pre-training and fine-tuning together.
    """
    pretrain = f"fastmim/train.py configs/debug/{pretraining}.py --data.root {{data}}/all --train.seed {{seed}}"
    probe, finetune = (
        f"fastmim/train.py configs/debug/cifar10_{kind}_{network}.py --data.root {{data}}/{labels}/train "
        f"--data.test {{data}}/{labels}/test --train.seed {{seed}} --run.dir {{run}}/"
        for kind, labels in (("probe", "few"), ("finetune", part))
    )
    knn = "-m fastmim.cli knn {run}/%s --data {data}/few --crop-pct 1"
    found = "/result.json:top1"
    return Proof(
        few_labels,
        {
            "pre-training": Arm(f"{pretrain} --run.dir {{run}}/pretrained"),
            "no pre-training": Arm(f"{pretrain} --run.dir {{run}}/random --optim.blr 0 --run.stop_after 1"),
            "k-NN": Arm(knn % "pretrained", "pretrained/knn.json:top1"),
            "k-NN, random": Arm(knn % "random", "random/knn.json:top1"),
            "probe": Arm(f"{probe}probe --run.init {{run}}/pretrained", "probe" + found),
            "probe, random": Arm(f"{probe}probe_random --run.init None", "probe_random" + found),
            "fine-tuning": Arm(f"{finetune}finetune --run.init {{run}}/pretrained", "finetune" + found),
            "from scratch": Arm(f"{finetune}scratch --run.init None {scratch}", "scratch" + found),
            "from scratch, whole budget": Arm(
                f"{finetune}budget --run.init None {scratch} --train.epochs {budget_epochs}",
                "budget" + found,
            ),
        },
        (
            Comparison("k-NN", "k-NN, random"),
            Comparison("probe", "probe, random"),
            Comparison("fine-tuning", "from scratch"),
            Comparison("fine-tuning", "from scratch, whole budget", ("pre-training", "fine-tuning")),
        ),
    )


def draw_shapes(folder: Path, _: Path | None) -> None:
    """Draws pictures of shapes with boxes and labels."""
    from tests.shapes import write_parts  # needs pycocotools, which CIFAR-10 does not

    write_parts(folder)


def on_shapes() -> Proof:
    """Returns detection and segmentation on few labelled pictures, each against random initialisation."""
    common = "--train.seed {seed} --run.dir {run}/"
    pretrain = f"fastmim/train.py configs/debug/shapes_mae.py --data.root {{data}}/all {common}pretrained"
    arms, comparisons = {"pre-training": Arm(pretrain)}, []
    detects = ("data/coco", "model/detector", "analysis/average_precision")
    segments = ("data/labels", "model/segmenter", "model/encoders/batchnorm")
    for task, config, kind, form, score, files in (
        ("detection", "detect", "annotations", ".json", "bbox_AP", detects),
        ("segmentation", "segment", "masks", "_figures", "miou", segments),
    ):
        words = f"fastmim/train.py configs/debug/shapes_{config}_vit.py "
        words += f"--data.root {{data}}/few --data.{kind} {{data}}/few{form} "
        words += f"--data.test {{data}}/test --data.test_{kind} {{data}}/test{form} {common}{config}"
        scratch, found = f"{task}, from scratch", f"result.json:{score}"
        own = tuple(f"fastmim/{name}.py" for name in (*files, "model/pyramid"))
        arms[task] = Arm(f"{words} --run.init {{run}}/pretrained", f"{config}/{found}", own)
        arms[scratch] = Arm(f"{words}_scratch --run.init None --optim.layer_decay 1", f"{config}_scratch/{found}", own)
        comparisons.append(Comparison(task, scratch))
    return Proof(draw_shapes, arms, tuple(comparisons), ("tests/shapes.py",))


PROOFS = {
    "cifar10_vit": classification("vit", "cifar10_mae_32px", "few", "--optim.layer_decay 1", 85),
    "cifar10_resnet": classification(
        "resnet", "cifar10_a2mim_resnet", "fewer", "--optim.layer_decay 1 --optim.blr 8e-3", 950
    ),
    "shapes": on_shapes(),
}
