"""Export at the end of a finished pre-training run."""

from __future__ import annotations

from pathlib import Path

from ..config.base import Experiment
from ..host.files import output
from .export import export_encoder, resolve_target
from .saved_run import open_run

_ELSEWHERE = "choose another run.dir"


class EncoderExport:
    """Export of a run's encoder for timm, into the run folder.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    def check(self) -> None:
        """Checks before training that the run folder can take the export.

        Raises:
            ValueError: something is in the way.
        """
        resolve_target(self.folder / "encoder", _ELSEWHERE)

    def write(self, config: Experiment) -> str:
        """Exports the encoder of the newest checkpoint, and returns the folder and its use in a few words."""
        _, loaded = open_run(self.folder, "run.dir")
        place = output(self.folder, "encoder", "README.md").parent
        about = {"run": self.folder, "step": loaded.step, "elsewhere": _ELSEWHERE}
        encoder = export_encoder(config, loaded.state["model"], place, **about)
        return f"{encoder} for timm or fastmim.load (features compared: bit-equal)"
