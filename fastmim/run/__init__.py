"""The files that a run writes (checkpoints, metrics, traces), and the ways in which it ends."""
