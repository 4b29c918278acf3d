"""Trains what a config describes:  deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]"""

import os
import signal
import sys

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C during imports ends the process without a traceback
if __name__ == "__main__" and sys.path[0] == os.path.dirname(os.path.abspath(__file__)):
    sys.path[0] = os.path.dirname(sys.path[0])  # a script's own folder would shadow the standard library

from typing import NoReturn

from fastmim.config import load
from fastmim.overrides import given, override
from fastmim.stop import Stop, launchers
from fastmim.terminal import shown, steady_output

USAGE = """usage: deepspeed fastmim/train.py CONFIG [--section.field VALUE ...]    (or python instead of deepspeed, or torchrun)
CONFIG is a Python file; configs/README.md lists them. CONFIG --help lists every setting with its default and unit."""


def main(argv: list[str]) -> None:
    with steady_output(patience=1.0), Stop(launchers()) as stop:
        run(argv, stop)


def run(argv: list[str], stop: Stop) -> None:
    argv = [arg for arg in argv if not arg.startswith("--local_rank")]  # from the launcher, which also sets LOCAL_RANK
    if not argv or argv[0].startswith("-"):
        print(USAGE, file=sys.stderr)
        raise SystemExit(0 if {"-h", "--help"} & set(argv) else 2)
    try:
        config = override(load(argv[0]), argv[1:], prog="train.py")
    except (ValueError, OSError) as error:
        refuse(error)

    # Imported here: timm and DeepSpeed take seconds, which --help and a refused setting do not need.
    import fastmim_kernels
    from fastmim.checkpoint import FolderError
    from fastmim.data.quarantine import BadFilesError
    from fastmim.tasks.promises import NO_MEMORY, explain
    from fastmim.trainer import Trainer

    fastmim_kernels.use_reference(config.train.kernels == "reference")
    with stop.explaining():
        try:
            trainer = Trainer(config, given(argv[1:]), stop)
        except (ValueError, OSError, FolderError) as error:
            refuse(error)
        try:
            trainer.fit()
        except BadFilesError as error:
            stop.tell(f"ended: {error}")
            raise SystemExit(shown(f"train.py: {stop.last_words(str(error))}")) from None
        except (RuntimeError, MemoryError) as error:
            if explain(error) != NO_MEMORY:
                raise
            stop.tell("ended: out of memory")
            saved = f"saved: update {trainer.saved}" if trainer.saved else "no update was saved"
            micro = trainer.task.engine.micro_batch
            raise SystemExit(f"train.py: out of memory: lower train.micro_batch (now {micro}); {saved}") from None


def refuse(error: Exception) -> NoReturn:
    """Ends a run that cannot be done before it has started; one process of each machine says why."""
    if os.environ.get("LOCAL_RANK", "0") == "0":
        print(shown(f"train.py: {error}"), file=sys.stderr)
    raise SystemExit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
