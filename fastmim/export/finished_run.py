"""Export at the end of a finished pre-training run: its encoder for timm, in the run folder."""

from __future__ import annotations

from pathlib import Path

from ..config.base import Experiment
from ..host.files import output
from .export import export_encoder, resolve_target
from .saved_run import open_run

_ELSEWHERE = "choose another run.dir"


def check_export_place(folder: Path) -> None:
    """Checks before training that the run folder can take the export.

    Raises:
        ValueError: something is in the way.
    """
    resolve_target(folder / "encoder", _ELSEWHERE)


def export_finished_run(config: Experiment) -> str:
    """Exports the encoder of a run's newest checkpoint, and returns the folder and its use in a few words."""
    folder = Path(config.run.dir)
    _, loaded = open_run(folder, "run.dir")
    place = output(folder, "encoder", "README.md").parent
    about = {"run": folder, "step": loaded.step, "elsewhere": _ELSEWHERE}
    encoder = export_encoder(config, loaded.state["model"], place, **about)
    return f"{encoder} for timm or fastmim.load (features compared: bit-equal)"
