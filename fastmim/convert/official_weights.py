"""Translation of official weights into the state of a `MIM` and back, with a report on every name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config.base import Config
from ..host.files import writing
from ..host.json_files import short
from ..host.terminal import shown
from ..model.mim import MIM
from . import a2mim_convnet, a2mim_vit, convmae, mae, pixmim, simmim, um_mae
from .backbone import check_not_dilated
from .checkpoint_format import CheckpointFormat
from .position_tables import resize_table
from .restricted_reader import OfficialFile, read_official

# The order matters: MAE's names are among those of the formats that build on MAE, so MAE comes last.
FORMATS: tuple[CheckpointFormat, ...] = (
    *pixmim.FORMATS,
    *convmae.FORMATS,
    *um_mae.FORMATS,
    *simmim.FORMATS,
    *a2mim_convnet.FORMATS,
    *a2mim_vit.FORMATS,
    *mae.FORMATS,
)
"""Known formats. A file has the first format whose marks are all among its names."""

# Wrappers (DDP, Lightning, EMA) add these parts in front of every name.
_WRAPPERS = ("module", "_orig_mod", "model", "student", "teacher", "ema_model", "model_ema", "net", "network")
_PREFIX = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)+")
# Compiled, sharded or checkpointed blocks add these parts within a name.
_WITHIN = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_MOST_PREFIXES = 16  # tried in one file
# Exceptions of a format's functions on tensors of unexpected shapes.
_MISSHAPEN = (RuntimeError, IndexError, TypeError, AttributeError, ZeroDivisionError, OverflowError)


@dataclass
class ConversionReport:
    """Report on every tensor of a conversion, by official name, or by fastmim's if there is none.

    Attributes:
        format: name of the checkpoint format.
        matched: number of tensors that were translated.
        resized: tables that were resized, with both shapes.
        derived: official tensors that follow from the configuration.
        missing: tensors of the model that the file lacks.
        unmatched: tensors that have no place on the other side.
    """

    format: str
    matched: int = 0
    resized: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    def lines(self, missing: str, unmatched: str) -> list[str]:
        """Returns the report, one fact a line.

        Args:
            missing: words for the tensors in `missing`.
            unmatched: words for the tensors in `unmatched`.
        """
        listed = [("resized", self.resized), ("derived from the configuration", self.derived)]
        listed += [(missing, self.missing), (unmatched, self.unmatched)]
        return [f"{self.format}: {self.matched} tensors matched"] + [
            f"{words}: {len(names)}" + "".join(f"\n    {shown(name)}" for name in names)
            for words, names in listed
            if names
        ]


@dataclass(frozen=True)
class OfficialWeights:
    """Weights of a file by their official names.

    Attributes:
        format: format of the names.
        state: the weights.
        notes: lines that say where in the file the weights were, and what else the file holds.
    """

    format: CheckpointFormat
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def open_official(path: Path) -> OfficialWeights:
    """Reads the weights of a file, without the wrappers that training programs put around them.

    Raises:
        OSError: the file cannot be opened.
        ValueError: the file holds no weights of a known format.
    """
    file = read_official(path)
    try:
        return unwrap(file)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def unwrap(file: OfficialFile) -> OfficialWeights:
    """Finds the weights of a known format, at the top level or below the prefix of a wrapper.

    Known wrappers are those of DDP, torch.compile, Lightning and EMA.

    Raises:
        ValueError: the names are of no known format.
    """
    state = {_WITHIN.sub("", name): tensor for name, tensor in file.state.items()}
    if len(state) < len(file.state):
        state = file.state
    prefixes = {found[0] for name in state if (found := _PREFIX.match(name))}
    for prefix in ("", *sorted(prefixes, key=_rank)[:_MOST_PREFIXES]):
        inner = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        if fmt := _recognise(inner):
            return OfficialWeights(fmt, inner, tuple(_notes(file, state, prefix)))
    names = ", ".join(short(name) for name in list(file.state)[:3])
    known = "; ".join(fmt.name for fmt in FORMATS)
    raise ValueError(f"expected weights of a known format ({known}), found the names {names}, ...")


def _recognise(state: Mapping[str, Tensor]) -> CheckpointFormat | None:
    """Returns the first of `FORMATS` whose marks are all among these names."""
    return next((fmt for fmt in FORMATS if fmt.recognises(state)), None)


def _rank(prefix: str) -> list[int]:
    """Sorts prefixes in the order of `_WRAPPERS`, and a prefix before its extensions."""
    return [_WRAPPERS.index(part) for part in prefix.rstrip(".").split(".")]


def _notes(file: OfficialFile, state: Mapping[str, Tensor], prefix: str) -> list[str]:
    notes = []
    if file.container not in (None, "model", "state_dict"):
        notes.append(f"taken: the weights under {file.container!r}")
    if state is not file.state and any(name not in state for name in file.state):
        notes.append("names taken without the parts of wrappers, such as '_orig_mod.'")
    if prefix:
        notes.append(f"names taken without {prefix!r}, the part of a wrapper")
        if others := [name for name in state if not name.startswith(prefix)]:
            notes.append(f"not kept: {len(others)} tensors outside {prefix!r}, such as {short(others[0])}")
    if file.rest:
        keys = [short(key) for key in list(file.rest)[:20]]
        notes.append(f"not kept: {', '.join(keys)}" + (", ..." if len(file.rest) > len(keys) else ""))
    return notes


def infer_config(fmt: CheckpointFormat, state: dict[str, Tensor]) -> Config:
    """Returns the official configuration of a model, with sizes taken from the shapes of its weights.

    Args:
        fmt: format of the weights.
        state: the weights by their official names.

    Raises:
        ValueError: the shapes do not determine the sizes.
    """
    if fmt.config is None:
        raise ValueError(f"the file does not determine the sizes of {fmt.name}: name a configuration with --config")
    try:
        return fmt.config(fmt.to_ours(fmt.prepare(state))[0])
    except KeyError as error:
        raise ValueError(
            f"the file lacks {error.args[0]} (fastmim's name): name a configuration with --config"
        ) from error
    except ValueError as error:
        raise ValueError(f"{error}: name a configuration with --config") from error
    except _MISSHAPEN as error:
        raise ValueError(
            "the file's shapes are those of no published model: name a configuration with --config"
        ) from error


def to_ours(fmt: CheckpointFormat, state: dict[str, Tensor], mim: MIM) -> tuple[dict[str, Tensor], ConversionReport]:
    """Translates official weights into the state of a model.

    Tables of another image or window size are resized. Tensors that the file lacks keep the model's values.

    Args:
        fmt: format of the weights.
        state: the weights by their official names.
        mim: model that takes the weights; it stays unchanged.

    Returns:
        The model's state dict with the weights, and the report.

    Raises:
        ValueError: no name matches, or a tensor has another shape than in the model and is no such table.
    """
    report, result, misfits = ConversionReport(fmt.name), mim.state_dict(), []
    missing = dict.fromkeys(result)
    for official, tensor in fmt.prepare(state).items():
        try:
            renamed, unmatched = fmt.to_ours({official: tensor})
        except _MISSHAPEN:
            misfits.append(f"{shown(official)} {tuple(tensor.shape)}")
            continue
        if not renamed:
            (report.unmatched if unmatched else report.derived).append(official)
            continue
        ((name, tensor),) = renamed.items()
        if name not in missing:
            report.unmatched.append(official)
            continue
        expected = result[name]
        if tensor.shape != expected.shape:
            resized = resize_table(name, tensor, expected.shape, mim.encoder)
            if resized is None:
                misfits.append(f"{shown(official)} {tuple(tensor.shape)}, here {tuple(expected.shape)}")
                continue
            report.resized.append(f"{official} {tuple(tensor.shape)} to {tuple(resized.shape)}")
            tensor = resized
        result[name] = tensor.to(expected.dtype)
        del missing[name]
        report.matched += 1
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(
            f"these tensors have another shape in the configuration: {'; '.join(misfits[:3])}{more}. Choose the "
            "configuration of that model; only position embeddings and relative-bias tables can be resized"
        )
    if not report.matched:
        raise ValueError(f"no name of {fmt.name} has a place in this configuration: choose one of the same encoder")
    for name in missing:
        official = next(iter(fmt.to_official({name: result[name]})[0]), None)
        report.missing.append(official or f"(ours) {name}")
    return result, report


def to_official(fmt: CheckpointFormat, mim: MIM) -> tuple[dict[str, Tensor], ConversionReport]:
    """Translates the state of a model into official weights.

    The result includes the tensors that the official code derives and saves.

    Raises:
        ValueError: the format has no place for the model's encoder.
    """
    check_not_dilated(mim.encoder)
    official, unmatched = fmt.to_official(mim.state_dict())
    if not official:
        raise ValueError(f"{fmt.name} has no place for any tensor of this model")
    derived = fmt.derived(mim) if fmt.derived else {}
    report = ConversionReport(fmt.name, len(official), derived=list(derived), unmatched=unmatched)
    return official | derived, report


def choose_format(mim: MIM, name: str | None = None, origin: str | None = None) -> CheckpointFormat:
    """Returns the format in which to write a model.

    Candidates are the formats that match `name` and from which the model can be read again.

    Args:
        mim: the model.
        name: part of a format's name; None = every format that has a place for all weights.
        origin: name of the format that the weights came from, which decides between several candidates.

    Raises:
        ValueError: there is no candidate, or more than one.
    """
    fitting = [fmt for fmt in FORMATS if _fits(fmt, mim)]
    listed = "; ".join(fmt.name for fmt in fitting) or "none"
    if name is None:
        found = fitting
    else:
        called = [fmt for fmt in FORMATS if name.lower() in (fmt.name.lower(), fmt.name.lower().partition(" (")[0])]
        called = called or [fmt for fmt in FORMATS if name.lower() in fmt.name.lower()]
        if not called:
            raise ValueError(f"--format {shown(name)}: no official format has this name; this model fits: {listed}")
        found = [fmt for fmt in called if fmt in fitting or _holds(fmt, mim)]
        if not found:
            names = " or ".join(fmt.name for fmt in called)
            raise ValueError(f"--format {shown(name)}: this model's weights do not fit {names}; they fit: {listed}")
    found = [fmt for fmt in found if fmt.name == origin] or found
    if not found:
        raise ValueError("no official format has a place for all of this model's weights")
    if len(found) > 1:
        several = "; ".join(fmt.name for fmt in found)
        raise ValueError(f"{len(found)} official formats fit; name one with --format, of: {several}")
    return found[0]


def _fits(fmt: CheckpointFormat, mim: MIM) -> bool:
    """True if the format has a place for all of the model's weights."""
    return _holds(fmt, mim) and not fmt.to_official(mim.state_dict())[1]


def _holds(fmt: CheckpointFormat, mim: MIM) -> bool:
    """True if a file of this format, written from the model, is recognised as a file of this format."""
    try:
        return fmt.recognises(to_official(fmt, mim)[0])
    except (ValueError, *_MISSHAPEN):  # the model lacks parts that the format derives tensors from
        return False


def write_official(
    path: Path, container: str, state: dict[str, Tensor], rest: Mapping[str, str | bool] | None = None
) -> None:
    """Writes a checkpoint file with `torch.save`, whole or not at all; missing folders are created.

    Args:
        path: file to write.
        container: key of the weights.
        state: the weights by their official names.
        rest: other keys of the file, with plain values.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    with writing(path) as file:
        try:
            torch.save({container: tensors, **(rest or {})}, file)
        except RuntimeError as error:  # torch hides the OSError of a full disk in the context
            raise error.__context__ if isinstance(error.__context__, OSError) else error  # noqa: B904
