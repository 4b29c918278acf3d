"""Text for people: names from outside, escaped before they are printed. Standard library only."""

from __future__ import annotations

import os
import shlex


def shown(name: str | bytes | os.PathLike) -> str:
    """Returns a name from outside as one line of plain characters.

    Control characters, terminal codes, line breaks, invisible characters and bytes that are not text appear as escapes
    (`\\n`, `\\x1b`, `\\xff`). A name without any of them is returned unchanged.

    Args:
        name: a file name, a key of a foreign file, or any text that fastmim did not write.
    """
    return "".join(c if c.isprintable() else _escaped(c) for c in os.fsdecode(name))


def typed(word: str | os.PathLike) -> str:
    """Returns a name from outside as a word to type into a shell, where it stands for itself and runs nothing.

    Args:
        word: a file name, or any text. Characters that a terminal cannot show are written as bash reads them, `$'...'`.
    """
    text = os.fsdecode(word)
    if text.isprintable():
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{shown(quoted)}'"


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as `os.fsdecode` carries it
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
