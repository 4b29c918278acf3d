"""Training command: `deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]`."""

import os
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports ends the process without a traceback
if __name__ == "__main__" and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path[0] = os.path.dirname(sys.path[0])  # a script's own folder would shadow the standard library

from pathlib import Path

from fastmim.config.base import Experiment
from fastmim.config.config_file import load
from fastmim.config.overrides import leaf_fields, override, settings_of
from fastmim.host.command import lacks_memory, refusing, repeated, version
from fastmim.host.terminal import shown, steady_output
from fastmim.run.launcher_processes import launchers
from fastmim.run.stop import Stop

USAGE = """usage: deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]    (or with python or torchrun)
CONFIG is a Python file; configs/README.md lists them. CONFIG --help lists every setting with its default and unit."""


def main(argv: list[str]) -> None:
    """Runs the training command with the words after its name."""
    patience = None if {"-h", "--help", "--version"} & set(argv) else 1.0  # a run continues if nobody reads its output
    with steady_output("train.py", patience), Stop(launchers()) as stop:
        run(argv, stop)


def run(argv: list[str], stop: Stop) -> None:
    """Trains. An error that a user can mend becomes one line on standard error.

    Raises:
        SystemExit: the run was refused, or has ended early.
    """
    # Launchers pass --local_rank, and set LOCAL_RANK too.
    argv = [arg for arg in argv if not arg.startswith(("--local_rank", "--local-rank"))]
    speaks = os.environ.get("LOCAL_RANK", "0") == "0"  # one process of each machine prints the refusal
    with refusing("train.py", speaks=speaks):
        config = read(argv)
        if speaks and (twice := repeated(argv)):
            print(f"{shown(twice[0])} is given more than once: the last value counts")

    # Imported late, because timm and DeepSpeed take seconds. --help and a refused setting should not wait for them.
    import fastmim_kernels
    from fastmim.data.quarantine import BadFilesError
    from fastmim.run.folder import FolderError
    from fastmim.tasks.trainer import Trainer

    fastmim_kernels.use_reference(config.train.kernels == "reference")
    places = {name: Path(value) for name, kind, value in leaf_fields(config) if value and kind.startswith("str")}
    with stop.explaining():
        last_words = {"tell": lambda why: stop.tell(f"refused: {why}")}
        with refusing("train.py", FolderError, speaks=speaks, paths=places, **last_words):
            trainer = Trainer(config, settings_of(argv[1:]), stop)
        try:
            trainer.fit()
        except BadFilesError as error:
            stop.tell(f"ended: {error}")
            raise SystemExit(shown(f"train.py: {stop.last_words(str(error))}")) from None
        except (RuntimeError, MemoryError) as error:
            if not lacks_memory(error):
                raise
            stop.tell("ended: out of memory")
            saved = f"saved: update {trainer.saver.saved}" if trainer.saver.saved else "no update was saved"
            micro = trainer.task.engine.micro_batch
            raise SystemExit(f"train.py: out of memory: lower train.micro_batch (now {micro}); {saved}") from None


def read(argv: list[str]) -> Experiment:
    """Returns the config of a command line: a config file with changed settings.

    Raises:
        SystemExit: 0 after `--help` and `--version`.
        ValueError: the command line names no config, or a setting is wrong.
    """
    first = argv[0] if argv else ""
    if first in ("-h", "--help", "--version"):
        print(version() if first == "--version" else USAGE)
        raise SystemExit(0)
    if first.startswith("-") or not first.strip():
        raise ValueError(
            f"expected CONFIG first, a file such as configs/debug/demo.py, got {shown(first) or 'nothing'}"
        )
    return override(load(first), argv[1:], prog="train.py")


if __name__ == "__main__":
    main(sys.argv[1:])
