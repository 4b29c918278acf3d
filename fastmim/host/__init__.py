"""Tools for the machine around a run: terminal, files, optional packages, launcher."""
