"""What a run writes and how it ends: checkpoints, metrics, traces, signals."""
