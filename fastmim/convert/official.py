"""Official weights in and out: from a file's tensors to the state of our module and back, each name accounted for.

May import L3 and below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..config import Config
from ..files import writing
from ..mim import MIM
from . import a2mim, a2mim_vit, convmae, mae, pixmim, simmim, um_mae
from .backbones import check_not_dilated
from .format import Format
from .read import OfficialFile
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


@dataclass
class Account:
    """What became of every name, for a person to read. Names are official, but for those of ours that have none."""

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
            f"{words}: {len(names)}" + "".join(f"\n    {name}" for name in names) for words, names in listed if names
        ]


def recognise(file: OfficialFile) -> Format:
    """The format of a file: the first of `FORMATS` with the file's container and all marks among its names.

    Raises:
        ValueError: none fits.
    """
    for fmt in FORMATS:
        if file.container in (fmt.container, None) and fmt.recognises(file.state):
            return fmt
    names = ", ".join(list(file.state)[:3])
    known = "; ".join(fmt.name for fmt in FORMATS)
    raise ValueError(f"its names ({names}, ...) are of no format known here: {known}")


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


def to_ours(fmt: Format, state: dict[str, Tensor], mim: MIM) -> tuple[dict[str, Tensor], Account]:
    """The state of `mim` with every tensor of an official state that has a place in it.

    Tables of another image or window size are resized; what the file lacks stays as `mim` has it.

    Raises:
        ValueError: nothing matches, or a tensor has another shape than ours and is no such table.
    """
    account, result, misfits = Account(fmt.name), mim.state_dict(), []
    missing = dict.fromkeys(result)
    for official, tensor in fmt.prepare(state).items():
        renamed, unmatched = fmt.to_ours({official: tensor})
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
                misfits.append(f"{official} {tuple(tensor.shape)}, here {tuple(expected.shape)}")
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


def choose(mim: MIM, name: str | None) -> Format:
    """The format whose name has `name` in it, or without one the only format that has a place for all of `mim`.

    Raises:
        ValueError: no format, or several, of this name, or that fit.
    """
    if name is not None:
        found = [fmt for fmt in FORMATS if name.lower() in (fmt.name.lower(), fmt.name.lower().partition(" (")[0])]
        found = found or [fmt for fmt in FORMATS if name.lower() in fmt.name.lower()]
    else:
        found = [fmt for fmt in FORMATS if _fits(fmt, mim)]
    if len(found) != 1:
        known = "; ".join(fmt.name for fmt in found or FORMATS)
        raise ValueError(f"{len(found) or 'no'} official formats fit; name one with --format, of: {known}")
    return found[0]


def _fits(fmt: Format, mim: MIM) -> bool:
    if fmt.to_official(mim.state_dict())[1]:
        return False
    try:
        return fmt.recognises(to_official(fmt, mim)[0])
    except ValueError:  # what it derives is not of this model
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
