"""Rules that translate the names of an official checkpoint to fastmim's names and back."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """Translation of one family of names: Rule("blocks.{i}.norm1.{p}", "encoder.blocks.{i}.norm1.{p}").

    A placeholder stands for one part of a dotted name. The placeholder {rest} stands for one or more parts.

    Attributes:
        official: pattern of the official names.
        ours: pattern of fastmim's names.
        to_ours: changes an official tensor into fastmim's; None = the tensor stays as it is.
        to_official: inverse of `to_ours`.
    """

    official: str
    ours: str
    to_ours: Callable[[Tensor], Tensor] | None = None
    to_official: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class CheckpointFormat:
    """Names and layout of one family of official checkpoints.

    Attributes:
        name: the method and its repository, for messages.
        container: key of the weights within the file.
        marks: regular expressions for names. A file has this format if each expression matches one of its names. No
            file of another format matches all of them.
        rules: translations of names; the first rule that matches a name applies.
        ignored: regular expressions for official names without a counterpart. fastmim derives these tensors from the
            configuration.
        config: returns the official configuration of a model, with sizes taken from the shapes of its weights (by
            fastmim's names). Raises ValueError if the shapes do not determine the sizes. None = shapes never do.
        prepare: rewrites another form of this format into the form that the rules expect.
        derived: returns the `ignored` tensors of a `MIM`, by official name. None = this format has no such tensors.
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
        """True if a state dict with these names has this format."""
        names = list(names)
        return all(any(re.fullmatch(mark, name) for name in names) for mark in self.marks)

    def to_ours(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Translates an official state dict.

        Returns:
            fastmim's state dict, and the official names that neither match a rule nor are `ignored`.
        """
        ours, unmatched = {}, []
        for name, tensor in state.items():
            if found := _translate(name, [(r.official, r.ours, r.to_ours) for r in self.rules]):
                new, change = found
                ours[new] = change(tensor) if change else tensor
            elif not any(re.fullmatch(pattern, name) for pattern in self.ignored):
                unmatched.append(name)
        return ours, unmatched

    def to_official(self, state: dict[str, Tensor]) -> tuple[dict[str, Tensor], list[str]]:
        """Translates a state dict of fastmim.

        Returns:
            The official state dict, and fastmim's names that match no rule.
        """
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
