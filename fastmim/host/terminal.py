"""Output for people: escapes names from outside, and survives output that cannot be written.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import select
import shlex
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, TextIO

_LONGEST = 4096  # most characters of a name in a message; a path has no more
_PIECE = 4096  # bytes that a ready pipe accepts without waiting (PIPE_BUF)


def shown(name: str | bytes | os.PathLike) -> str:
    """Returns a name from outside as one line of plain characters.

    Escapes control characters, terminal codes, line breaks, invisible characters and bytes that are not text
    (`\\n`, `\\x1b`, `\\xff`). Shortens names of thousands of characters in the middle. Other names stay unchanged.

    Args:
        name: a file name, a key of a stranger's file, or any text that fastmim did not write.
    """
    text = os.fsdecode(name)
    if len(text) > _LONGEST:
        half = _LONGEST // 2
        text = f"{text[:half]}[{len(text) - 2 * half} more]{text[-half:]}"
    return _plain(text)


def shell_word(word: str | os.PathLike) -> str:
    """Quotes a name from outside, so that a user can paste the name into a shell.

    Characters that a terminal cannot show are written in bash's form `$'...'`.

    Args:
        word: a file name, or any text.
    """
    text = os.fsdecode(word)
    if text.isprintable():
        return shlex.quote(text)
    quoted = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{_plain(quoted)}'"


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else _escaped(c) for c in text)


def _escaped(character: str) -> str:
    if "\udc80" <= character <= "\udcff":  # a byte that is not UTF-8, as returned by `os.fsdecode`
        return f"\\x{ord(character) - 0xDC00:02x}"
    if "\x80" <= character <= "\xff":  # `\\x85` would mean a byte
        return f"\\u{ord(character):04x}"
    return character.encode("unicode_escape").decode("ascii")


def reason(error: Exception) -> str:
    """Returns the reason for an error in one line.

    The reason is the system's message without file names, or the error's own text.
    """
    return getattr(error, "strerror", None) or shown(" ".join(str(error).split())) or type(error).__name__


@contextlib.contextmanager
def steady_output(prog: str, patience: float | None = None) -> Iterator[None]:
    """Lets `print` inside the `with` block drop output instead of failing.

    Otherwise a full disk, a closed pipe or an odd character would raise an error.

    Output that cannot be written is dropped. A run goes on after one warning. A command (`patience` None) does its work
    and then exits with status 1. A closed pipe does not change the status, because the reader has read enough.

    Args:
        prog: name that a warning starts with.
        patience: seconds to wait for a reader that does not read, before output is dropped. None = wait for ever.
    """
    _open_standard_files()
    before = sys.stdout, sys.stderr
    errors = SteadyStream(before[1], patience, lambda text: None)
    output = SteadyStream(before[0], patience, lambda text: print(f"{prog}: {text}", file=errors))
    sys.stdout, sys.stderr = output, errors
    try:
        ended = None
        try:
            yield
        except SystemExit as error:  # such as after --help
            if error.code:
                raise
            ended = error
        output.flush()
        if patience is None and output.error and not isinstance(output.error, BrokenPipeError):
            print(f"{prog}: standard output cannot be written ({reason(output.error)})", file=errors)
            raise SystemExit(1)
        if ended:
            raise ended
    finally:
        output.flush()
        errors.flush()
        sys.stdout, sys.stderr = before


class SteadyStream:
    """A text stream that writes whole lines, and drops output that cannot be written.

    Attributes:
        error: the last error of writing, or None. The error stays set after the stream has recovered.
    """

    def __init__(self, stream: TextIO, patience: float | None, warn: Callable[[str], None]):
        self.error: OSError | ValueError | None = None
        self._stream, self._patience, self._warn = stream, patience, warn
        self._pending, self._dropping, self._lock = "", False, threading.RLock()
        self._descriptor: int | None = None
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
            self._descriptor = stream.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with self._lock:
            self._pending += text
            if "\n" in text:
                self.flush()
        return len(text)

    def flush(self) -> None:
        with self._lock:
            text, self._pending = self._pending, ""
            if not text:
                return
            try:
                if self._dropping:
                    if isinstance(self.error, BrokenPipeError):
                        return
                    self._put("\n[output is missing here: it could not be written]\n")
                    self._dropping = False
                self._put(text)
            except (OSError, ValueError) as error:  # ValueError: the stream is closed
                self.error, first, self._dropping = error, self.error is None, True
                if first and self._patience is not None:
                    self._warn(
                        f"warning: standard output cannot be written ({reason(error)}); the run goes on without it"
                    )

    def _put(self, text: str) -> None:
        data = text.encode(self._stream.encoding or "utf-8", "backslashreplace")
        if self._descriptor is None:
            self._stream.write(data.decode(self._stream.encoding or "utf-8"))
            self._stream.flush()
            return
        ready = select.poll()
        ready.register(self._descriptor, select.POLLOUT)
        while data:
            seconds = 0 if self._dropping else self._patience
            if not ready.poll(None if seconds is None else 1000 * seconds):
                raise BlockingIOError(0, "no program reads it")
            with contextlib.suppress(BlockingIOError):
                data = data[os.write(self._descriptor, data[:_PIECE]) :]


def _open_standard_files() -> None:
    """Opens /dev/null for each closed standard stream.

    Otherwise another file could get the number of the stream.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))
