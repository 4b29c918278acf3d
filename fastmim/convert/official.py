"""Official weights in and out: from a file's tensors to the state of our module and back, each name accounted for.

May import L3 and below.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config.base import Config
from ..host.files import writing
from ..host.terminal import shown
from ..model.mim import MIM
from . import a2mim, a2mim_vit, convmae, mae, pixmim, simmim, um_mae
from .backbones import check_not_dilated
from .format import Format
from .read import OfficialFile, read_official, words
from .resize import resize_table

# More special ones first: a MAE's names are among those of formats derived from it.
FORMATS: tuple[Format, ...] = (
    *pixmim.FORMATS,
    *convmae.FORMATS,
    *um_mae.FORMATS,
    *simmim.FORMATS,
    *a2mim.FORMATS,
    *a2mim_vit.FORMATS,
    *mae.FORMATS,
)

# Wrappers put these parts in front of every name; those of compiled or sharded blocks can stand within a name too.
_WRAPPERS = ("module", "_orig_mod", "model", "student", "teacher", "ema_model", "model_ema", "net", "network")
_WITHIN = re.compile(r"(?:(?<=\.)|^)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_PREFIX = re.compile(rf"(?:(?:{'|'.join(_WRAPPERS)})\.)+")
_TRIED = 16  # prefixes of a file
# Exceptions of code that gets other shapes than those of a format.
_MISSHAPEN = (RuntimeError, IndexError, TypeError, AttributeError, ZeroDivisionError, OverflowError)


@dataclass
class Account:
    """Account of every name, for a person to read. Names are official, except ours that have no official one."""

    format: str
    matched: int = 0
    resized: list[str] = field(default_factory=list)
    derived: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unmatched: list[str] = field(default_factory=list)

    def lines(self, missing: str, unmatched: str) -> list[str]:
        """One line a fact, with `missing` and `unmatched` as the words for what those mean here."""
        listed = [("resized", self.resized), ("derived from the configuration", self.derived)]
        listed += [(missing, self.missing), (unmatched, self.unmatched)]
        return [f"{self.format}: {self.matched} tensors matched"] + [
            f"{what}: {len(names)}" + "".join(f"\n    {shown(name)}" for name in names)
            for what, names in listed
            if names
        ]


@dataclass(frozen=True)
class Found:
    """The weights of a file by their official names.

    Attributes:
        format: layout of the names.
        state: the weights.
        notes: lines that say where in the file the weights were, and what else it holds.
    """

    format: Format
    state: dict[str, Tensor]
    notes: tuple[str, ...]


def open_official(path: Path) -> Found:
    """Reads a file's weights, out of the wrappers that training programs put around them.

    Raises:
        OSError: the file cannot be opened.
        ValueError: it holds no weights of a known format.
    """
    file = read_official(path)
    try:
        return unwrap(file)
    except ValueError as error:
        raise ValueError(f"{shown(path)}: {error}") from error


def unwrap(file: OfficialFile) -> Found:
    """Finds the weights of a known format in a file: whole, or below a prefix of DDP, torch.compile, Lightning or EMA.

    Raises:
        ValueError: there are none.
    """
    state = {_WITHIN.sub("", name): tensor for name, tensor in file.state.items()}
    if len(state) < len(file.state):
        state = file.state
    prefixes = {found[0] for name in state if (found := _PREFIX.match(name))}
    for prefix in ("", *sorted(prefixes, key=_rank)[:_TRIED]):
        inner = {name.removeprefix(prefix): t for name, t in state.items() if name.startswith(prefix)}
        if fmt := _recognise(inner):
            return Found(fmt, inner, tuple(_notes(file, state, prefix)))
    names = ", ".join(shown(name[:200]) for name in list(file.state)[:3])
    known = "; ".join(fmt.name for fmt in FORMATS)
    raise ValueError(f"its names ({names}, ...) are of no format known here: {known}")


def _recognise(state: Mapping[str, Tensor]) -> Format | None:
    """Returns the first of `FORMATS` that has all its marks among these names."""
    return next((fmt for fmt in FORMATS if fmt.recognises(state)), None)


def _rank(prefix: str) -> list[int]:
    """Sorts prefixes in the order of `_WRAPPERS`, a prefix of a prefix first."""
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
            notes.append(f"not kept: {len(others)} tensors outside {prefix!r}, such as {shown(others[0][:200])}")
    if file.rest:
        keys = [words(key) for key in list(file.rest)[:20]]
        notes.append(f"not kept: {', '.join(keys)}" + (", ..." if len(file.rest) > len(keys) else ""))
    return notes


def configuration(fmt: Format, state: dict[str, Tensor]) -> Config:
    """The official configuration of a file's model, its sizes taken from the shapes of an official state.

    Raises:
        ValueError: shapes do not tell.
    """
    if fmt.config is None:
        raise ValueError(f"the sizes of {fmt.name} cannot be told from the file: name a configuration with --config")
    try:
        return fmt.config(fmt.to_ours(fmt.prepare(state))[0])
    except KeyError as error:
        raise ValueError(f"the file lacks {error.args[0]} (by our name): name a configuration with --config") from error
    except ValueError as error:
        raise ValueError(f"{error}: name a configuration with --config") from error
    except _MISSHAPEN as error:
        raise ValueError(
            "the file's shapes are those of no published model: name a configuration with --config"
        ) from error


def to_ours(fmt: Format, state: dict[str, Tensor], mim: MIM) -> tuple[dict[str, Tensor], Account]:
    """The state of `mim` with every tensor of an official state that has a place in it.

    Tables of another image or window size are resized; what the file lacks stays as `mim` has it.

    Raises:
        ValueError: nothing matches, or a tensor has another shape than ours and is no such table.
    """
    account, result, misfits = Account(fmt.name), mim.state_dict(), []
    missing = dict.fromkeys(result)
    for official, tensor in fmt.prepare(state).items():
        try:
            renamed, unmatched = fmt.to_ours({official: tensor})
        except _MISSHAPEN:
            misfits.append(f"{shown(official)} {tuple(tensor.shape)}")
            continue
        if not renamed:
            (account.unmatched if unmatched else account.derived).append(official)
            continue
        ((name, tensor),) = renamed.items()
        if name not in missing:
            account.unmatched.append(official)
            continue
        expected = result[name]
        if tensor.shape != expected.shape:
            resized = resize_table(name, tensor, expected.shape, mim.encoder)
            if resized is None:
                misfits.append(f"{shown(official)} {tuple(tensor.shape)}, here {tuple(expected.shape)}")
                continue
            account.resized.append(f"{official} {tuple(tensor.shape)} to {tuple(resized.shape)}")
            tensor = resized
        result[name] = tensor.to(expected.dtype)
        del missing[name]
        account.matched += 1
    if misfits:
        more = f" and {len(misfits) - 3} more" if len(misfits) > 3 else ""
        raise ValueError(
            f"these have another shape in the configuration: {'; '.join(misfits[:3])}{more}. Choose the configuration "
            "of that model; only position embeddings and relative-bias tables can be resized"
        )
    if not account.matched:
        raise ValueError(f"no name of {fmt.name} has a place in this configuration: choose one of the same encoder")
    for name in missing:
        official = next(iter(fmt.to_official({name: result[name]})[0]), None)
        account.missing.append(official or f"(ours) {name}")
    return result, account


def to_official(fmt: Format, mim: MIM) -> tuple[dict[str, Tensor], Account]:
    """The official state of `mim`, with the tensors that the official code derives and stores.

    Raises:
        ValueError: the parts of `mim` do not allow those.
    """
    check_not_dilated(mim.encoder)
    official, unmatched = fmt.to_official(mim.state_dict())
    if not official:
        raise ValueError(f"{fmt.name} has no place for any tensor of this model")
    derived = fmt.derived(mim) if fmt.derived else {}
    account = Account(fmt.name, len(official), derived=list(derived), unmatched=unmatched)
    return official | derived, account


def choose(mim: MIM, name: str | None = None, before: str | None = None) -> Format:
    """The format to write: of those with `name` in theirs, the only one in which the model can be read again.

    Args:
        name: part of a name; None = any.
        before: name of the format that the weights came from, which decides between several.

    Raises:
        ValueError: no format, or several, of this name and fit.
    """
    fitting = [fmt for fmt in FORMATS if _fits(fmt, mim)]
    listed = "; ".join(fmt.name for fmt in fitting) or "none"
    if name is None:
        found = fitting
    else:
        called = [fmt for fmt in FORMATS if name.lower() in (fmt.name.lower(), fmt.name.lower().partition(" (")[0])]
        called = called or [fmt for fmt in FORMATS if name.lower() in fmt.name.lower()]
        if not called:
            raise ValueError(f"--format {shown(name)}: no official format is called that; this model fits: {listed}")
        found = [fmt for fmt in called if fmt in fitting or _holds(fmt, mim)]
        if not found:
            words = " or ".join(fmt.name for fmt in called)
            raise ValueError(f"--format {shown(name)}: this model's weights do not fit {words}; they fit: {listed}")
    found = [fmt for fmt in found if fmt.name == before] or found
    if not found:
        raise ValueError("no official format has a place for all of this model's weights")
    if len(found) > 1:
        several = "; ".join(fmt.name for fmt in found)
        raise ValueError(f"{len(found)} official formats fit; name one with --format, of: {several}")
    return found[0]


def _fits(fmt: Format, mim: MIM) -> bool:
    """True if the format has a place for all of the model's weights."""
    return _holds(fmt, mim) and not fmt.to_official(mim.state_dict())[1]


def _holds(fmt: Format, mim: MIM) -> bool:
    """True if a file of this format, written from the model, would be recognised as such."""
    try:
        return fmt.recognises(to_official(fmt, mim)[0])
    except (ValueError, *_MISSHAPEN):  # what it derives is not of this model
        return False


def write_official(
    path: Path, container: str, state: dict[str, Tensor], rest: Mapping[str, str | bool] | None = None
) -> None:
    """Writes {container: tensors} and the plain values of `rest` with `torch.save`, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.contiguous().clone() for name, tensor in state.items()}
    with writing(path) as file:
        try:
            torch.save({container: tensors, **(rest or {})}, file)
        except RuntimeError as error:  # torch hides that the system refused a write, when the disk is full
            raise error.__context__ if isinstance(error.__context__, OSError) else error  # noqa: B904
