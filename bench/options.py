"""Command-line options that several benchmarks share."""

from __future__ import annotations

import argparse

import torch

from fastmim.host.command import Parser, at_least


def command_parser(name: str, about: str | None) -> Parser:
    """Returns the parser of `python -m bench NAME`.

    Args:
        name: the command.
        about: docstring of its module, which the help text shows.
    """
    return Parser(f"python -m bench {name}", about or "")


def add_configs(parser: Parser) -> None:
    """Adds the config files of pre-training, one or more."""
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config files of pre-training")


def add_settings(parser: Parser, words: str = "settings that replace the config's") -> None:
    """Adds the option `--set`."""
    parser.add_argument("--set", nargs="+", default=[], metavar="section.field=value", help=words)


def add_samples(parser: Parser) -> None:
    """Adds the option `--samples`."""
    parser.add_argument("--samples", type=at_least(2), default=20, help="timed calls of each (default: 20)")


def add_device(parser: Parser) -> None:
    """Adds the option `--device`."""
    parser.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        type=_device,
        choices=["cpu", "cuda"],
        help="default: a GPU if there is one",
    )


def _device(name: str) -> str:
    if name == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no GPU")
    return name
