"""What the transfer campaign compares: for each data set and network, commands and the numbers that they leave."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.shapes import write_parts


@dataclass(frozen=True)
class Arm:
    """One command, and the number that it leaves, if it does.

    words: behind `python`; {data}, {run} (the folder of all runs of a seed) and {seed} are filled in.
    found: FILE:NAME of the number, in {run}.
    """

    words: str
    found: str = ""

    @property
    def folder(self) -> str | None:
        """The run folder that it makes, by its name in {run}."""
        words = self.words.split()
        return words[words.index("--run.dir") + 1].removeprefix("{run}/") if "--run.dir" in words else None


@dataclass(frozen=True)
class Comparison:
    """Two arms, of which the first must be better; the second must have had the CPU time of `budget` together."""

    better: str
    worse: str
    budget: tuple[str, ...] = ()


@dataclass(frozen=True)
class Proof:
    """What is compared on one data set.

    data: makes the folder {data} from the user's, or from nothing.
    arms: by name; each needs what those before it left.
    files: of the source, what its arms depend on beside what every proof does.
    """

    data: Callable[[Path, Path | None], None]
    arms: dict[str, Arm]
    comparisons: tuple[Comparison, ...]
    files: tuple[str, ...] = ()


def few_labels(folder: Path, source: Path | None) -> None:
    """CIFAR-10 as README.md has it: {data}/all without labels; {data}/few with 100 a class, and 200 to test on.

    Raises:
        ValueError: `source` has no class folders.
    """
    if source is None or not (source / "train").is_dir() or not (source / "test").is_dir():
        raise ValueError("--data: expected CIFAR-10 as image files, in train/CLASS/ and test/CLASS/")
    for images in ("train/*/00??.jpg", "test/*/0[01]??.jpg"):
        for image in source.glob(images):
            copy = folder / "few" / image.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, copy)
    (folder / "all").symlink_to(source.resolve() / "train")


def classification(network: str, pretraining: str, scratch: str, budget_epochs: int) -> Proof:
    """Probe, k-NN and fine-tuning on a few labels against the same from random initialisation.

    Args:
        scratch: settings that are better for training from scratch than those of fine-tuning.
        budget_epochs: from scratch for as long as pre-training and fine-tuning take together.
    """
    pretrain = f"fastmim/train.py configs/debug/{pretraining}.py --data.root {{data}}/all --train.seed {{seed}}"
    probe, finetune = (
        f"fastmim/train.py configs/debug/cifar10_{kind}_{network}.py --data.root {{data}}/few/train "
        "--data.test {data}/few/test --train.seed {seed} --run.dir {run}/"
        for kind in ("probe", "finetune")
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


def on_shapes() -> Proof:
    """Segmentation and detection on a few labelled pictures against the same from random initialisation."""
    common = "--train.seed {seed} --run.dir {run}/"
    words = f"fastmim/train.py configs/debug/shapes_mae.py --data.root {{data}}/all {common}pretrained"
    arms, comparisons = {"pre-training": Arm(words)}, []
    for task, config, part, kind, form, score in (
        ("detection", "detect", "few", "annotations", ".json", "bbox_AP"),
        ("segmentation", "segment", "train", "masks", "_masks", "miou"),
    ):
        data = f"--data.root {{data}}/{part} --data.{kind} {{data}}/{part}{form} "
        data += f"--data.test {{data}}/test --data.test_{kind} {{data}}/test{form} "
        words = f"fastmim/train.py configs/debug/shapes_{config}_vit.py {data}{common}{config}"
        scratch, found = f"{task}, from scratch", f"result.json:{score}"
        arms[task] = Arm(f"{words} --run.init {{run}}/pretrained", f"{config}/{found}")
        arms[scratch] = Arm(f"{words}_scratch --run.init None --optim.layer_decay 1", f"{config}_scratch/{found}")
        comparisons.append(Comparison(task, scratch))
    parts = ("pyramid", "data/masks", "segmenter", "data/coco", "detector", "analysis/average_precision")
    files = (*(f"fastmim/{part}.py" for part in parts), "tests/shapes.py")
    return Proof(lambda folder, source: write_parts(folder), arms, tuple(comparisons), files)


PROOFS = {
    "cifar10_vit": classification("vit", "cifar10_mae_32px", "--optim.layer_decay 1", 56),
    "cifar10_resnet": classification("resnet", "cifar10_um_resnet", "", 90),
    "shapes": on_shapes(),
}
