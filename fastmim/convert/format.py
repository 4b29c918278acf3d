"""Correspondence of the parameter names of an official checkpoint with ours. May import torch only."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """One family of names, written with placeholders: Rule("blocks.{i}.norm1.{p}", "encoder.blocks.{i}.norm1.{p}").

    A placeholder stands for one part of a dotted name, or for several if it is {rest}. The functions change the
    tensor on its way, and are each other's inverse.
    """

    official: str
    ours: str
    to_ours: Callable[[Tensor], Tensor] | None = None
    to_official: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Format:
    """The layout of one family of official checkpoints.

    Attributes:
        name: in words, with the repository.
        container: key of the weights within the file.
        marks: names (regular expressions) that a file of this format has, each matching at least one, and that together
            no file of another format has.
        rules: the first one that matches a name decides.
        ignored: official names (regular expressions) with no counterpart: what we derive from the configuration.
        config: the official configuration of a model with these weights (by our names), sizes taken from their shapes;
            raises ValueError where shapes do not tell. None: shapes do not tell.
        prepare: rewrites an official state in another form of this format into the one that the rules are for.
        derived: the `ignored` tensors, by official name, of a module of ours (a `MIM`). None: there are none.
    """

    name: str
    container: str
    marks: tuple[str, ...]
    rules: tuple[Rule, ...]
    ignored: tuple[str, ...] = ()
    config: Callable[[dict[str, Tensor]], Any] | None = None
    prepare: Callable[[dict[str, Tensor]], dict[str, Tensor]] = dict
    derived: Callable[[Any], dict[str, Tensor]] | None = None

    def recognises(self, names: Iterable[str]) -> bool:
        """True if a state dict with these names is of this format."""
        names = list(names)
        return all(any(re.fullmatch(mark, name) for name in names) for mark in self.marks)

    def to_ours(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """(our state dict, official names that nothing here matches and that are not `ignored`)."""
        ours, unmatched = {}, []
        for name, tensor in state.items():
            if found := _translate(name, [(r.official, r.ours, r.to_ours) for r in self.rules]):
                new, change = found
                ours[new] = change(tensor) if change else tensor
            elif not any(re.fullmatch(pattern, name) for pattern in self.ignored):
                unmatched.append(name)
        return ours, unmatched

    def to_official(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """(official state dict, our names that nothing matches)."""
        official, unmatched = {}, []
        for name, tensor in state.items():
            if found := _translate(name, [(r.ours, r.official, r.to_official) for r in self.rules]):
                new, change = found
                official[new] = change(tensor) if change else tensor
            else:
                unmatched.append(name)
        return official, unmatched


def _translate(name: str, rules: list[tuple]) -> tuple[str, Callable[[Tensor], Tensor] | None] | None:
    for source, target, change in rules:
        if found := _pattern(source).fullmatch(name):
            return target.format(**found.groupdict()), change
    return None


@functools.cache
def _pattern(source: str) -> re.Pattern:
    return re.compile(re.sub(r"\\\{(\w+)\\\}", _placeholder, re.escape(source)))


def _placeholder(match: re.Match) -> str:
    return f"(?P<{match[1]}>{'.+' if match[1] == 'rest' else '[^.]+'})"
