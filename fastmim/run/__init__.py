"""The files that a run writes (checkpoints, metrics, traces), and the end of a run."""
