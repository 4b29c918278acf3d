"""Command lines: a parser with checked options, and one-line error messages."""

from __future__ import annotations

import argparse
import contextlib
import difflib
import inspect
import io
import os
import re
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import fastmim

from .terminal import shown

_DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\uff0d"
_NONE = ("none", "null", "nil", "undefined")
_SYSTEM = {
    FileExistsError: "expected a folder, found a file",
    NotADirectoryError: "expected a folder, found a file",
    IsADirectoryError: "expected a file, found a folder",
    FileNotFoundError: "no such file or folder",
    PermissionError: "permission denied",
}
_MEMORY = re.compile("(allocate|out of|not enough) memory|CUBLAS_STATUS_ALLOC_FAILED", re.I)  # in torch's messages
_KINDS = {"int": "a whole number", "float": "a number"}


def version() -> str:
    """Returns the text that `--version` prints."""
    return f"fastmim {fastmim.__version__}"


def nearest(word: str, known: Iterable[str]) -> str:
    """Returns "; nearest: NAME" with the known name nearest to `word`, or "" if no name is similar."""
    names = list(known)
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.7)
    if not near and len(word) > 2:
        near = [name for name in names if word in name]
    return f"; nearest: {near[0]}" if near else ""


def misread(text: str) -> str | None:
    """Returns words for an error message if a path or name is probably a mistake, else None.

    Mistakes are an empty text, a word for "none", a Windows path, and a ~ that the shell did not replace.
    """
    if not text.strip():
        return "an empty one"
    if text.strip().lower() in _NONE:
        return f"{text.strip()!r}"
    if re.match(r"[A-Za-z]:\\|\\\\", text):
        return f"{shown(text)!r}, a Windows path; write it with /"
    if text.startswith("~"):
        return f"{shown(text)!r}, in which the shell has not replaced the ~: write a space, not =, before the path"
    return None


def check_words(words: Sequence[str]) -> None:
    """Checks the words of a command line for empty values, and for dashes from a word processor.

    Raises:
        ValueError: a value is empty or a dash is wrong; the message names the word or its option.
    """
    before = None
    for word in words:
        name, equals, value = word.partition("=")
        if word[:1] and word[0] in _DASHES:
            raise ValueError(f"{shown(word)}: expected two hyphens (--), got another kind of dash")
        if word.startswith("--") and equals:
            before, word = name, value
        if not word.strip() and before:
            raise ValueError(f"{shown(before)}: expected a value, got an empty one")
        if not name.startswith("--"):
            before = None
            continue
        before = name


def repeated(words: Sequence[str]) -> list[str]:
    """Returns the options that occur more than once, in their second spelling."""
    names = [word.partition("=")[0] for word in words if word.startswith("--")]
    spelt = [name.replace("_", "-") for name in names]
    return [name for at, name in enumerate(names) if spelt[at] in spelt[:at]]


class Parser(argparse.ArgumentParser):
    """An argparse parser with one-line error messages.

    The parser accepts no abbreviated options, and suggests the right spelling of misspelt options.

    Args:
        prog: the command, as typed.
        about: description for `--help`.
        speaker: name that an error message starts with; None = `prog`.
    """

    def __init__(self, prog: str, about: str, speaker: str | None = None):
        super().__init__(
            prog=prog,
            description=about.replace("%", "%%"),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        self.speaker = speaker or prog
        self.register("type", None, _text)
        self.register("type", str, _text)
        self.register("type", Path, _path)

    # argparse declares overloads; this project passes no namespace.
    def parse_args(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, args: Iterable[str] | None = None, namespace: Any = None
    ) -> argparse.Namespace:
        """Parses a command line. Option names may have underscores instead of hyphens."""
        words = list(sys.argv[1:] if args is None else args)
        try:
            check_words(words)
            for name in repeated(words):
                raise ValueError(f"{shown(name)}: given twice; give it once")
        except ValueError as error:
            self.error(str(error))
        words = [_hyphens(word) for word in words]
        found, rest = self.parse_known_args(words, namespace)
        if rest:
            self.error(self._unknown(rest))
        return found

    def error(self, message: str) -> NoReturn:
        """Ends the process with one line and exit status 2."""
        message = message.removeprefix("argument ")
        if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
            message = f"{missing[1]}: missing; `{self.prog} --help` describes it"
        message = re.sub(r"expected (one|at least one) argument$", r"expected a value, got nothing", message)
        message = re.sub(r"expected (\d+) arguments$", r"expected \1 values", message)
        message = re.sub(r"ignored explicit argument", r"expected no value, got", message)
        message = re.sub(
            r"invalid (\w+) value: (.*)", lambda m: f"expected {_KINDS.get(m[1], m[1])}, got {m[2]}", message
        )
        self.exit(2, f"{self.speaker}: {shown(' '.join(message.split()))}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"expected one of {', '.join(known)}, got {shown(str(value))}{nearest(str(value), known)}"
            )

    def _unknown(self, words: list[str]) -> str:
        """Returns an error message about words that belong to no option."""
        word = words[0].split("=")[0]
        if not word.startswith("-"):
            return f"{shown(word)}: one argument too many; `{self.prog} --help` lists the arguments"
        options = [name[2:] for name in self._option_string_actions if name.startswith("--") and name != "--help"]
        hint = nearest(word.lstrip("-"), options).replace(": ", ": --")
        hint = hint or "; there are " + ", ".join(f"--{name}" for name in options) if options else ""
        return f"{shown(word)}: no such option{hint}"


def at_least(least: int) -> Callable[[str], int]:
    """Returns the argparse type of whole numbers of at least `least`."""

    def number(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {least}, got {shown(text)}")
        return value

    return number


def _path(text: str) -> Path:
    if wrong := misread(text):
        raise argparse.ArgumentTypeError(f"expected a path, got {wrong}")
    return Path(text)


def _text(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a value, got an empty one")
    return text


def dispatch(prog: str, name: str, command: Callable, words: Sequence[str]) -> None:
    """Calls a function with the arguments and options of a command line.

    Args:
        prog: name of the program, which error messages start with.
        name: name of the command, as typed.
        command: the function. Its positional parameters become arguments, its keyword-only parameters options. Its
            docstring becomes the help.
        words: the words after the name of the command.
    """
    about, _, described = (inspect.getdoc(command) or "").partition("\n\nArgs:\n")
    helps = dict(re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", described, re.M))
    parser, hints, typed = Parser(f"{prog} {name}", about, prog), typing.get_type_hints(command), {}
    for key, parameter in inspect.signature(command).parameters.items():
        settings, required = _settings(hints[key]), parameter.default is parameter.empty
        settings["help"] = " ".join(helps[key].split()).replace("%", "%%")
        if not required:
            settings["default"] = parameter.default
            settings["help"] += "" if parameter.default in (None, False) else f" (default: {parameter.default})"
        if parameter.kind is parameter.KEYWORD_ONLY:
            typed[key] = f"--{key.replace('_', '-')}"
            if required:
                settings["required"] = True
            parser.add_argument(typed[key], **settings)
        else:
            typed[key] = settings["metavar"] = key.upper()
            if not required:
                settings["nargs"] = "?"
            parser.add_argument(key, **settings)
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in vars(parser.parse_args(words)).items()}
    paths = {typed[key]: value for key, value in values.items() if isinstance(value, Path)}
    with refusing(prog, RuntimeError, paths=paths):
        command(**values)


def _settings(hint: Any) -> dict[str, Any]:
    """Returns the arguments of `add_argument` for a type."""
    if type(None) in typing.get_args(hint):
        hint = typing.get_args(hint)[0]
    if hint is bool:
        return {"action": "store_true"}
    if typing.get_origin(hint) is typing.Literal:
        return {"choices": typing.get_args(hint)}
    if typing.get_origin(hint) is tuple:
        kinds = typing.get_args(hint)
        return {"type": kinds[0], "nargs": len(kinds), "metavar": tuple(kind.__name__.upper() for kind in kinds)}
    return {"type": hint, "metavar": hint.__name__.upper()}


@contextlib.contextmanager
def refusing(
    prog: str,
    *kinds: type[RuntimeError],
    paths: dict[str, Path] | None = None,
    speaks: bool = True,
    tell: Callable[[str], object] = lambda line: None,
) -> Iterator[None]:
    """Ends the process with one line and exit status 2 if a user can mend the failure of the `with` block.

    A user can mend a ValueError, an OSError, a lack of memory, and the `kinds`. Other errors pass through.

    Args:
        prog: name that the line starts with.
        kinds: further RuntimeErrors to report in one line.
        paths: {argument: path}. A message about a file also names its argument.
        speaks: False prints nothing, because another process prints the line.
        tell: also called with the reason.
    """
    errors = sys.stderr if speaks else io.StringIO()
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:  # the reader, such as `| head`, has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=errors)
        raise SystemExit(130) from None
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not (isinstance(error, kinds) or lacks_memory(error)):
            raise
        why = explain(error, paths)
        tell(why)
        print(f"{prog}: {why}", file=errors)
        raise SystemExit(2) from None


def lacks_memory(error: Exception) -> bool:
    """True if an error says that memory ran out, on the host or on a GPU."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and bool(_MEMORY.search(str(error))))


def explain(error: Exception, paths: dict[str, Path] | None = None) -> str:
    """Returns the message of an exception as one line.

    If the message names a file, the line also names the argument that the file belongs to.
    """
    named = sorted((paths or {}).items(), key=lambda item: -len(os.path.abspath(item[1])))
    if lacks_memory(error):
        return "there is not enough memory for this"
    if not isinstance(error, OSError) or not error.strerror:
        text = shown(" ".join(str(error).split()))
        if any(name in text for name, _ in named):
            return text
        within = [name for name, place in named if _mentions(text, shown(os.path.abspath(place)))]
        return f"{within[0]}: {text}" if within else text
    text = _SYSTEM.get(type(error), error.strerror)
    if error.filename is None:
        return text
    file = Path(os.path.abspath(os.fsdecode(error.filename)))
    for name, place in named:
        whole = Path(os.path.abspath(place))
        if file.parent == whole.parent and file.name.startswith(f".{whole.name}"):  # the temporary name of an output
            return f"{name} {shown(place)}: {text}"
        if file.is_relative_to(whole):
            return f"{name} {shown(file if file != whole else place)}: {text}"
    return f"{shown(error.filename)}: {text}"


def _mentions(text: str, place: str) -> bool:
    """True if a text holds the whole path of a file or folder, or a path inside that folder."""
    return len(place) > 1 and re.search(rf"(?<![\w./-]){re.escape(place)}(?![\w.-])", text) is not None


def _hyphens(word: str) -> str:
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word
