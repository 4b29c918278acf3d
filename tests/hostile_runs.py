"""Run folders that a stranger prepared: each is a valid run of a tiny model with one defect."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

STEP = "step-00000001"
REMOVED = "REMOVED"
DEEP = 100_000

CONFIG = ("meta", "config")

Change = Callable[[Path], object]


class Raw(str):
    """JSON text that is written unchanged."""


def seal(checkpoint: Path) -> None:
    """Writes a checkpoint's manifest anew, so that it fits the changed files."""
    manifest = {}
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        content = (checkpoint / name).read_bytes()
        manifest[name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (checkpoint / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")


def stored(value: Any, *path: str | int) -> Change:
    """Puts a value into state.json, or removes a value."""

    def change(run: Path) -> None:
        file = run / "checkpoints" / STEP / "state.json"
        state = json.loads(file.read_text())
        place, raw = state, isinstance(value, Raw)
        for key in path[:-1]:
            place = place[key]
        if value is REMOVED:
            del place[path[-1]]
        else:
            place[path[-1]] = "RAW" if raw else value
        text = json.dumps(state)
        file.write_text(text.replace('"RAW"', value) if raw else text)
        seal(file.parent)

    return change


def written(name: str, content: bytes | str, sealed: bool = True) -> Change:
    """Replaces a file of the checkpoint."""

    def change(run: Path) -> None:
        file = run / "checkpoints" / STEP / name
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
        if sealed:
            seal(file.parent)

    return change


def weights(change: Callable[[dict], dict], name: str = "model.safetensors") -> Change:
    """Changes the tensors of a checkpoint."""

    def apply(run: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = run / "checkpoints" / STEP / name
        save_file(change(load_file(file)), file)
        seal(file.parent)

    return apply


def cut(name: str, keep: float) -> Change:
    """Shortens a file of the checkpoint; the manifest has the hash of the short file."""

    def change(run: Path) -> None:
        file = run / "checkpoints" / STEP / name
        content = file.read_bytes()
        file.write_bytes(content[: int(len(content) * keep)])
        seal(file.parent)

    return change


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    """Replaces a file or folder of the run by something else."""

    def change(run: Path) -> None:
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        make(path)

    return change


def many_empty(run: Path) -> None:
    """Gives the encoder thousands of blocks, and the file thousands of empty tensors."""
    import torch

    weights(lambda state: state | {f"w{i}": torch.zeros(0) for i in range(20_000 - len(state))})(run)
    stored(4000, *CONFIG, "encoder", "depth")(run)


def fields(value: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yields the path of every value within a JSON value."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from fields(inner, (*path, key))


VALUES: tuple[Any, ...] = (
    REMOVED, None, True, -1, 0, 10**18, 10**400, -1e308, 0.5, "", "x" * 100_000, "\x1b[31m\n", [], [[]], {},
    {"part": []}, {"part": "Config"}, [1] * 100_000,
)  # fmt: skip


def of_no_use() -> dict[str, Change]:
    """Returns the changes that make the run's only checkpoint unusable, by description."""
    import torch

    config = {
        f"{'.'.join(map(str, path))} is {str(value)[:20]}": stored(value, *CONFIG, *path)
        for path, value in [
            (("part",), "Manifest"), (("part",), REMOVED), (("part",), []), (("part",), "__import__('os')"),
            (("encoder",), REMOVED), (("encoder",), []), (("encoder",), "ViT"), (("encoder", "part"), "RandomMasking"),
            (("encoder", "depth"), 10**7), (("encoder", "depth"), -1), (("encoder", "depth"), "1"),
            (("encoder", "embed_dim"), 10**9), (("encoder", "embed_dim"), 65536), (("encoder", "num_heads"), 10**18),
            (("encoder", "patch_size"), 0), (("encoder", "name"), "hf-hub:somebody/else"), (("encoder", "name"), 7),
            (("encoder", "drop_path"), 1e308), (("encoder", "surprise"), 1), (("decoder", "depth"), 10**12),
            (("decoder", "dim"), 2**31), (("decoder",), None), (("masking", "ratio"), 2), (("masking", "ratio"), ""),
            (("data", "size"), [10**9, 10**9]), (("data", "size"), [0, 0]), (("data", "size"), 32),
            (("data", "size"), [32, 32, 32]), (("data", "mean"), [0.5] * 5000), (("data", "std"), [0, 0, 0]),
            (("data", "workers"), 10**9), (("data", "crop"), {"part": "Config"}), (("train", "seed"), -1),
            (("target",), {}), (("loss",), [[[]]]), (("optim",), None), (("optim", "no_decay"), ["x" * 1001]),
        ]
    }  # fmt: skip
    return {
        "meta is a list": stored([], "meta"), "meta is missing": stored(REMOVED, "meta"),
        "no config": stored(REMOVED, *CONFIG), "config is a text": stored("x", *CONFIG),
        "config is a number": stored(3, *CONFIG), "config is a list": stored([{}], *CONFIG),
        **config,
        "step is a text": stored("1", "step"), "step is true": stored(True, "step"),
        "step is missing": stored(REMOVED, "step"), "step is 10 ** 18": stored(10**18, "step"),
        "step is another": stored(2, "step"), "step is negative": stored(-1, "step"),
        "step is huge": stored(10**400, "step"), "step is NaN": stored(Raw("NaN"), "step"),
        "step is infinite": stored(Raw("1e999"), "step"), "step has 10,000 digits": stored(Raw("1" * 10_000), "step"),
        "format is a list": stored([], "format"), "format is of the future": stored(2, "format"),
        "format is missing": stored(REMOVED, "format"), "a loss is NaN": stored(Raw("NaN"), *CONFIG, "loss"),
        "a size is infinite": stored(Raw("-Infinity"), *CONFIG, "data", "size"),
        "state.json is empty": written("state.json", ""), "state.json is a list": written("state.json", "[]"),
        "state.json is null": written("state.json", "null"),
        "state.json is no text": written("state.json", b"\xff\xfe"),
        "state.json is deep": written("state.json", "[" * DEEP), "state.json is deep objects": written(
            "state.json", '{"a":' * DEEP), "state.json is large": written("state.json", " " * (1 << 23) + "{}"),
        "manifest.json is a list": written("manifest.json", "[]\n", False),
        "manifest.json is null": written("manifest.json", "null\n", False),
        "manifest.json is deep": written("manifest.json", "[" * DEEP, False),
        "manifest.json is no text": written("manifest.json", b"\xff\xfe", False),
        "manifest.json has other files": written("manifest.json", '{\n "../../x": {}\n}\n', False),
        "manifest.json has numbers": written("manifest.json",
            '{\n "model.safetensors": 1,\n "optimizer.safetensors": 2,\n "state.json": 3\n}\n', False),
        "model is empty": written("model.safetensors", b""), "model is text": written("model.safetensors", b"x" * 100),
        "model ends early": cut("model.safetensors", 0.5), "model has half a header": cut("model.safetensors", 0.001),
        "optimizer ends early": written("optimizer.safetensors", struct.pack("<Q", 1 << 60) + b"{}"),
        "optimizer has other groups": weights(lambda _: {"x.y": torch.zeros(1)}, "optimizer.safetensors"),
        "optimizer has averages of nothing": weights(lambda _: {"ema.y": torch.zeros(1)}, "optimizer.safetensors"),
        "no weights": weights(lambda state: {}),
        "a weight is missing": weights(lambda state: dict(list(state.items())[1:])),
        "a weight too many": weights(lambda state: state | {"x\x1b[31m": torch.zeros(1)}),
        "weights of other shapes": weights(lambda state: {k: torch.zeros(*v.shape, 2) for k, v in state.items()}),
        "weights without dimensions": weights(lambda state: {k: torch.zeros(()) for k in state}),
        "weights that are integers": weights(lambda state: {k: v.to(torch.int64) for k, v in state.items()}),
        "weights that are complex": weights(lambda state: {k: v.to(torch.complex64) for k, v in state.items()}),
        "weights in 8 bits": weights(lambda state: {k: v.to(torch.float8_e4m3fn) for k, v in state.items()}),
        "too many weights": weights(lambda state: state | {f"w{i}": torch.zeros(0) for i in range(20_001)}),
        "a depth that empty weights allow": many_empty,
        "state.json is a pipe": replaced(f"checkpoints/{STEP}/state.json", os.mkfifo),
        "model is a pipe": replaced(f"checkpoints/{STEP}/model.safetensors", os.mkfifo),
        "model is a device": replaced(f"checkpoints/{STEP}/model.safetensors", lambda p: p.symlink_to("/dev/zero")),
        "manifest is a folder": replaced(f"checkpoints/{STEP}/manifest.json", os.mkdir),
        "manifest is a device": replaced(f"checkpoints/{STEP}/manifest.json", lambda p: p.symlink_to("/dev/zero")),
        "the checkpoint is a file": replaced(f"checkpoints/{STEP}", Path.touch),
        "the checkpoint is a pipe": replaced(f"checkpoints/{STEP}", os.mkfifo),
        "the checkpoint is a link to nothing": replaced(f"checkpoints/{STEP}", lambda p: p.symlink_to("nowhere")),
        "checkpoints is a file": replaced("checkpoints", Path.touch),
        "checkpoints is a pipe": replaced("checkpoints", os.mkfifo),
        "checkpoints is empty": replaced("checkpoints", os.mkdir),
    }  # fmt: skip


def odd() -> dict[str, Change]:
    """Returns the changes of `latest` that a run survives, because `latest` is only a hint."""
    return {
        "latest is a pipe": replaced("checkpoints/latest", os.mkfifo),
        "latest is a device": replaced("checkpoints/latest", lambda p: p.symlink_to("/dev/zero")),
        "latest is a folder": replaced("checkpoints/latest", os.mkdir),
        "latest is a link to itself": replaced("checkpoints/latest", lambda p: p.symlink_to("latest")),
        "latest is huge": replaced("checkpoints/latest", lambda p: p.write_text("step-" * 10**6)),
        "latest leads out": replaced("checkpoints/latest", lambda p: p.write_text("../../elsewhere\n")),
        "latest is missing": replaced("checkpoints/latest", lambda p: None),
        "another checkpoint has 10 ** 18 updates": lambda run: (run / f"checkpoints/step-{10**18}").mkdir(),
        "another checkpoint has too many digits": lambda run: (run / f"checkpoints/step-{'9' * 200}").mkdir(),
        "another checkpoint has other digits": lambda run: (run / "checkpoints/step-0000000\u0662").mkdir(),
    }


SIDE_FILES: tuple[bytes, ...] = (
    b"", b"null\n", b"[]\n", b"3\n", b'"x"\n', b"\xff\xfe\n", b"{}\n", b"[" * DEEP, b'{"a":' * DEEP, b"1" * 10_000,
    b'{"step": null, "loss": 1}\n', b'{"step": "1", "loss": "low"}\n', b'{"step": 1, "loss": [1]}\n',
    b'{"step": 1, "loss": NaN}\n', b'{"step": 1, "loss": 1e999}\n', b'{"step": 1, "loss": -1e308}\n',
    b'{"step": 1000000000000000000, "loss": 1}\n', b'{"step": -1, "loss": 1}\n',
    b'{"step": 1, "loss": 1, "held_out": 1, "trivial": []}\n', b'{"step": 1, "loss": 1, "held_out": 1}\n',
    b'{"step": 1, "loss": 1, "held_out": "x", "trivial": {"zero": {}}}\n',
    b'{"step": 1, "loss": 1, "images_per_s": 0, "updates": 1, "peak_bytes": "x"}\n',
    b'{"step": 1, "loss": 1, "images_per_s": "fast"}\n', b'{"devices": [], "precision": {"x": 1}, "ZeRO": null}\n',
    b'{"top1": {}, "\\u001b[31m": "\\n\\n# Title", "k": NaN}\n',
)  # fmt: skip
"""Contents of the small files beside the checkpoints."""
