"""The machine around a run: terminal, files, optional packages, launcher."""
