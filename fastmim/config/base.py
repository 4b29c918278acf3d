"""The typed configuration of a run. Knows the base class of each part, never a concrete part.

May import fields, terminal and tokens only.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import re
import runpy
import sys
import traceback
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..host.terminal import shown
from ..parts import Crop, Decoder, Encoder, ImageSpec, Loss, Masking, Target
from .fields import brief, check_bounds, check_types

_LONGEST = 4096  # values of a list, or characters of a text, in a stored config: as long as paths
_MOST_PATTERNS, _LONGEST_PATTERN = 100, 1_000  # of a field


@dataclass(frozen=True)
class Data:
    """Images in."""

    crop: Crop
    """Window of each image that is trained on."""
    root: str = "data/train"
    """A folder of images (flat, nested or by class), a text file that lists one image a line, or a manifest written by
    `fastmim doctor`, whose checksums are then compared with every file read."""
    size: tuple[int, int] = (224, 224)
    """Height and width of a training sample, pixels."""
    flip: float = 0.5
    """Probability of a horizontal flip."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Channel means, on the 0..1 scale."""
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    """Channel standard deviations, on the 0..1 scale."""
    repeats: int = 1
    """Times each image is seen per epoch, each time with its own crop and mask."""
    repeats_together: bool = False
    """Repeats of an image follow each other, so that a batch holds them, and an epoch is as many samples as there are
    images (repeated augmentation, arXiv:1902.05509). False = they are spread over an epoch that is longer."""
    held_out: int = 8
    """Images kept out of training for the reconstruction grids and the comparison with trivial predictors. Drawn from
    `held_out_root` if that is given, else from `root`."""
    held_out_root: str | None = None
    """Folder, list file or manifest of held-out images, which must not be in `root`. `root` is then trained on whole.
    None = `held_out` images of `root` are left out of training."""
    loader: Literal["auto", "dali", "pillow"] = "auto"
    """The decoder; auto = DALI where it is installed, else Pillow, which is slower."""
    bad_budget: float = 0.1
    """Fraction of the images that may be bad before the run saves and stops; 0 = stop at the first, 1 = never stop.
    Each bad file is replaced by another image and named in bad_files.jsonl. Processes that share no run.dir count their
    own. The same fraction of the test images may be bad; these are left out."""
    workers: int = 0
    """Decoding threads per process; 0 = the process's share of the CPU cores."""
    prefetch: int = 4
    """Micro-batches decoded ahead."""
    decode_memory: int = 500
    """MB that decoding one image may take, the file included, as estimated from its header. An image that needs more is
    a bad file. All threads of a process together use at most four times as much."""
    decode_seconds: float = 2.0
    """CPU seconds that decoding one image may take, as estimated from its header. An image that needs more, such as a
    JPEG of very many scans, is a bad file."""

    def __post_init__(self):
        check_types(self, "data.")
        check_bounds(self, "data.", "size", at_least=1, at_most=16384)
        check_bounds(self, "data.", "flip", "bad_budget", at_least=0, at_most=1)
        check_bounds(self, "data.", "mean", above=-math.inf, below=math.inf)
        check_bounds(self, "data.", "std", above=0, below=math.inf)
        check_bounds(self, "data.", "decode_memory", at_least=1)
        check_bounds(self, "data.", "decode_seconds", above=0)
        check_bounds(self, "data.", "repeats", at_least=1, at_most=256)
        check_bounds(self, "data.", "held_out", at_least=0)
        check_bounds(self, "data.", "workers", "prefetch", at_least=0, at_most=1024)
        if self.held_out_root and not self.held_out:
            raise ValueError(
                "data.held_out_root is set, but data.held_out=0 takes no image of the folder: raise data.held_out, or "
                "leave out data.held_out_root"
            )
        if len(self.mean) != len(self.std):
            raise ValueError(f"data.mean and data.std: expected one number per channel, got {self.mean} and {self.std}")

    @property
    def image(self) -> ImageSpec:
        """Size and normalisation of the samples."""
        return ImageSpec(self.size, self.mean, self.std)


@dataclass(frozen=True)
class Optim:
    """The optimizer and its learning rate."""

    algorithm: Literal["adamw", "lamb", "lars", "sgd"] = "adamw"
    """AdamW; at ZeRO stage 0 also timm's LAMB and LARS, which need the norm of each whole parameter, and torch's SGD
    with momentum."""
    blr: float = 1.5e-4
    """Base learning rate: lr = blr * global_batch / lr_batch."""
    lr_batch: int = 256
    """Batch size that `blr` refers to."""
    schedule: Literal["cosine", "linear", "multistep"] = "cosine"
    """After warm-up: half a cosine or a line down to `min_lr`, or steps by `decay_rate` at each of `decay_epochs`."""
    min_lr: float = 0.0
    """Learning rate at the end of the cosine or line, absolute."""
    cosine_from: Literal["warmup", "start"] = "warmup"
    """Start of the cosine or line: the end of the warm-up, or epoch 0. In the second case the rate drops onto the curve
    when the warm-up ends."""
    decay_epochs: tuple[float, ...] = ()
    """Epochs at which "multistep" lowers the learning rate."""
    decay_rate: float = 0.1
    """Factor of each of `decay_epochs`."""
    warmup_epochs: float = 40
    """Epochs of linear warm-up from `warmup_lr`."""
    warmup_lr: float = 0.0
    """Learning rate at the start of warm-up, absolute."""
    betas: tuple[float, float] = (0.9, 0.95)
    """Moment decay rates of AdamW and LAMB."""
    eps: float = 1e-8
    """Epsilon of AdamW and LAMB."""
    momentum: float = 0.9
    """Momentum of LARS and SGD."""
    weight_decay: float = 0.05
    """Weight decay, decoupled except in LARS and SGD. Not applied to 1-D parameters and biases."""
    layer_decay: float = 1.0
    """Factor of the learning rate from each layer of the encoder to the layer before; modules after it have 1."""
    no_decay: tuple[str, ...] = ()
    """Regular expressions, searched in parameter names: no weight decay for these either."""
    decay: tuple[str, ...] = ()
    """Regular expressions, searched in parameter names: weight decay for these although they are 1-D or biases."""
    lr_scale: tuple[tuple[str, float], ...] = ()
    """Pairs of a regular expression, searched in parameter names, and a factor of the learning rate; the last match
    counts."""
    clip: float | None = None
    """Global gradient norm above which gradients are scaled down; None = no clipping."""

    def __post_init__(self):
        check_types(self, "optim.")
        check_bounds(self, "optim.", "lr_batch", at_least=1)
        rates = ("blr", "min_lr", "warmup_epochs", "warmup_lr", "weight_decay")
        check_bounds(self, "optim.", *rates, at_least=0, below=math.inf)
        check_bounds(self, "optim.", "decay_epochs", "decay_rate", above=0, below=math.inf)
        check_bounds(self, "optim.", "betas", "momentum", at_least=0, below=1)
        check_bounds(self, "optim.", "eps", "clip", above=0, below=math.inf)
        check_bounds(self, "optim.", "layer_decay", above=0, at_most=1)
        if self.schedule == "multistep" and not self.decay_epochs:
            raise ValueError("optim.schedule is multistep: give optim.decay_epochs, when the learning rate is lowered")
        scaled = tuple(pattern for pattern, _ in self.lr_scale)
        for name, patterns in (("no_decay", self.no_decay), ("decay", self.decay), ("lr_scale", scaled)):
            if len(patterns) > _MOST_PATTERNS or max(map(len, patterns), default=0) > _LONGEST_PATTERN:
                raise ValueError(
                    f"optim.{name}: expected at most {_MOST_PATTERNS} regular expressions of at most "
                    f"{_LONGEST_PATTERN} characters, got {len(patterns)} of up to {max(map(len, patterns))}"
                )
        for pattern, factor in self.lr_scale:
            if not 0 <= factor < math.inf:
                raise ValueError(f"optim.lr_scale: expected factors at least 0, got {factor} for {pattern!r}")


@dataclass(frozen=True)
class Train:
    """Length, batch, arithmetic and memory of a run."""

    epochs: float = 800
    """Passes over the training images."""
    global_batch: int = 4096
    """Images per optimizer update, over all processes."""
    micro_batch: int | None = None
    """Images per process per forward; None = global_batch / processes. The rest is gradient accumulation."""
    seed: int = 0
    """Seed of initialisation, order, crops, flips and masks; 0 <= seed < 2**63."""
    precision: Literal["auto", "fp32", "autocast", "autocast-fp16", "bf16-master"] = "auto"
    """fp32; autocast (fp32 weights, bf16 compute); autocast-fp16 (with loss scaling, ZeRO 0 only); bf16-master (bf16
    weights, fp32 masters). auto = autocast on a GPU and on CPUs with bf16 matrix instructions, else fp32."""
    zero_stage: Literal[0, 1, 2, 3] = 0
    """DeepSpeed ZeRO stage: 1 shards optimizer state, 2 gradients too, 3 parameters too. At stage 3 DeepSpeed's
    linear layers round before they add the bias, so bf16 results differ slightly from those of other stages."""
    offload: bool = False
    """Keep optimizer state in host memory (ZeRO >= 1)."""
    activation_checkpointing: bool = False
    """Recompute each transformer block in the backward pass instead of storing its activations."""
    deterministic: bool = False
    """Bit-identical GPU runs, at some cost in speed. CPU runs always are."""
    kernels: Literal["auto", "reference"] = "auto"
    """auto = C++ on CPU, Triton on GPU; reference = plain torch everywhere."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto = a GPU if there is one."""
    deepspeed: str | None = None
    """A JSON file of further DeepSpeed settings, merged into the derived ones; conflicts are named and refused."""
    max_skipped: int = 5
    """Updates in a row that may be skipped for a non-finite loss or gradient before the run stops. autocast-fp16 allows
    16 more, in which its loss scale falls from 65536 to 1."""
    timeout: float = 60
    """Seconds without a sign of life after which a process counts as frozen or dead. The others then save what can be
    saved, and end. Also the longest wait for an update after a signal, where only all processes together can save."""

    def __post_init__(self):
        check_types(self, "train.")
        check_bounds(self, "train.", "epochs", above=0, at_most=10**9)
        check_bounds(self, "train.", "global_batch", "micro_batch", "max_skipped", at_least=1)
        check_bounds(self, "train.", "seed", at_least=0)
        check_bounds(self, "train.", "timeout", at_least=1, below=math.inf)


@dataclass(frozen=True)
class Run:
    """The run folder, and how often the run saves, logs and evaluates."""

    dir: str = "runs/run"
    """Run folder: config, metrics, checkpoints, pictures, exported encoder."""
    resume: bool = True
    """Continue from the newest valid checkpoint in the run folder."""
    init: str | None = None
    """Run folder whose newest checkpoint gives a new run its weights, also one that `fastmim convert` wrote. Runs other
    than pre-training take the encoder only, and accept an exported encoder. None = initialise from train.seed.
    data.mean, data.std and settings of the network that do not fit the weights are taken from there too. Updates,
    optimizer state and schedule start afresh."""
    save_every: int = 500
    """Updates between checkpoints."""
    keep: int = 2
    """Checkpoints kept; the oldest goes only when a newer one is durable."""
    log_every: int = 20
    """Updates between log lines; slow updates are logged about once a minute. The host waits for the device only at a
    log line."""
    evaluate_every: int = 500
    """Updates between evaluations. Pre-training: held-out loss and pictures; 0 = never. Other tasks: test score; 0 =
    only at the end."""
    stop_after: int | None = None
    """Stop after this many updates in total, saving; the schedule is unchanged."""
    trace: bool = False
    """Write a hash of loss, gradient norm, parameters, samples and masks of every update to trace.jsonl."""
    tensorboard: bool = False
    """Also write TensorBoard events."""

    def __post_init__(self):
        check_types(self, "run.")
        check_bounds(self, "run.", "save_every", "keep", "log_every", "stop_after", at_least=1)
        check_bounds(self, "run.", "evaluate_every", at_least=0)


class Experiment:
    """Base of the classes that a config file may define: one for each task, with data, optim, train and run."""


@dataclass(frozen=True)
class Config(Experiment):
    """A pre-training run: masking x encoder x decoder x target x loss, data, optimisation."""

    masking: Masking
    encoder: Encoder
    decoder: Decoder
    target: Target
    loss: Loss
    data: Data
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    run: Run = field(default_factory=Run)


def load(path: str | Path) -> Experiment:
    """Runs a config file and returns its `config`; a relative path inside a config file is relative to that file.

    Raises:
        ValueError: the file is missing, is not a Python file, does not define `config` as an Experiment, fails while it
            runs, or gives a field a value of another type: one sentence that names the file and, if known, the line.
    """
    path = Path(path)
    if not path.is_absolute() and (caller := _calling_config()) is not None:
        path = caller.parent / path
    if path.suffix != ".py" or not path.is_file():
        raise ValueError(f"{shown(path)}: expected a config file (Python){_other_config(path)}")
    if path.resolve() in _loading:
        raise ValueError(f"{shown(path)}: expected a config file that does not load itself")
    _loading.append(path.resolve())
    try:
        config = runpy.run_path(str(path)).get("config")
    except (Exception, SystemExit) as error:  # a config file is the user's own code: it can raise anything
        raise ValueError(_locate(path, error)) from error
    finally:
        _loading.pop()
    if not isinstance(config, Experiment):
        others = " or ".join(kind.__name__ for kind in Experiment.__subclasses__() if kind is not Config)
        raise ValueError(
            f"{shown(path)}: expected it to end with `config = Config(...)`{others and f', or {others}'}, "
            f"got {'none' if config is None else 'a class' if isinstance(config, type) else type(config).__name__}"
        )
    try:
        check_types(config)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error
    return config


_loading: list[Path] = []
"""Config files that are being run, the outermost first."""


def _other_config(path: Path) -> str:
    """Returns "; did you mean FILE?" for a config file that is not there."""
    elsewhere = Path(__file__).resolve().parents[2] / path
    if elsewhere.suffix == ".py" and elsewhere.is_file():
        return f"; did you mean {elsewhere}?"
    folder = path if path.is_dir() else path.parent
    near = difflib.get_close_matches(path.name, [p.name for p in folder.glob("*.py") if p.is_file()], n=1, cutoff=0.6)
    if near:
        return f"; did you mean {shown(folder / near[0])}?"
    return f"; found {'a folder' if path.is_dir() else 'another file' if path.exists() else 'nothing'} there; " + (
        "configs/README.md lists them"
    )


def _locate(path: Path, error: BaseException) -> str:
    """One line on what a config file raised: file, line, and for an unknown keyword the nearest field."""
    lines = [line for frame, line in traceback.walk_tb(error.__traceback__) if frame.f_code.co_filename == str(path)]
    line = lines[-1] if lines else 1  # what cannot be decoded never ran
    text = str(error)
    if isinstance(error, SyntaxError) and error.filename == str(path):
        line, text = error.lineno, error.msg
    if found := re.match(r"(\w+)\.__init__\(\) got an unexpected keyword argument '(\w+)'", text):
        kinds = [kind for kind in _family(Experiment) if dataclasses.is_dataclass(kind)]
        hints = {hint for kind in kinds for hint in typing.get_type_hints(kind).values()}
        bases = (*kinds, *filter(dataclasses.is_dataclass, hints), Crop)
        parts = {part.__name__: part for base in bases for part in _family(base)}
        if found[1] in parts:
            fields = [f.name for f in dataclasses.fields(parts[found[1]])]
            near = difflib.get_close_matches(found[2], fields, n=1, cutoff=0.0)
            return f"{path}:{line}: {found[1]} has no field {found[2]}" + (f"; nearest: {near[0]}" if near else "")
    kind = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
    return shown(f"{path}:{line}: {kind}{' '.join(text.split())}")


def _family(part: type) -> list[type]:
    """Returns a class and all its subclasses."""
    return [part, *(derived for child in part.__subclasses__() for derived in _family(child))]


def _calling_config() -> Path | None:
    """Returns the config file that called `load`, or None."""
    caller = sys._getframe(2)
    name = caller.f_globals.get("__name__")
    return Path(caller.f_code.co_filename) if name == "<run_path>" else None


def to_json(value: Any) -> Any:
    """Returns a config as plain JSON values; each part has its class name under "part"."""
    if dataclasses.is_dataclass(value):
        fields = {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
        return {"part": type(value).__name__} | fields
    return [to_json(v) for v in value] if isinstance(value, tuple) else value


def from_json(value: Any, parts: tuple[type, ...], name: str = "") -> Any:
    """Builds a config from what `to_json` returned, with only the classes in `parts`.

    Args:
        name: dotted name of the field that holds the value, for messages.

    Raises:
        ValueError: an unknown part, a field that it does not have or lacks, or a value that the field cannot hold.
    """
    try:
        return _from_json(value, parts, name)
    except RecursionError:
        raise ValueError(f"{name or 'config'}: expected a few values within each other, found hundreds") from None


def _from_json(value: Any, parts: tuple[type, ...], name: str) -> Any:
    where = f"{name}: " if name else ""
    if isinstance(value, list | str) and len(value) > _LONGEST:
        raise ValueError(f"{where}expected at most {_LONGEST} values or characters, found {len(value)}")
    if isinstance(value, list):
        return tuple(_from_json(v, parts, name) for v in value)
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ValueError(f"{where}expected a number below 2**63")
    if not isinstance(value, dict):
        return value
    fields = dict(value)
    part = fields.pop("part", None)
    known = {part.__name__: part for part in parts}
    if not isinstance(part, str) or part not in known:
        names = ", ".join(sorted(known))
        raise ValueError(f"{where}config part {brief(part)} is unknown to this version; it knows {names}")
    own = {f.name: f for f in dataclasses.fields(known[part])}
    if unexpected := ", ".join(sorted(set(fields) - set(own))):
        raise ValueError(f"{where}config part {part} has no field {brief(unexpected)}: written by another version?")
    inner = {k: _from_json(v, parts, f"{name}.{k}".strip(".")) for k, v in fields.items()}
    needed = [f.name for f in own.values() if f.default is f.default_factory is dataclasses.MISSING]
    if lacking := [field for field in needed if field not in inner]:
        raise ValueError(f"{where}config part {part} lacks the field {', '.join(lacking)}")
    try:
        built = known[part](**inner)
        check_types(built, f"{name}." if name else "")
    except (TypeError, AttributeError, ArithmeticError, LookupError) as error:  # of a value that a check cannot compare
        raise ValueError(f"{where}config part {part} holds a value of another type than its fields have") from error
    return built
