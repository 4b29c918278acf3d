"""The optimizer update on DeepSpeed: settings, optimizers, processes, and the training state."""
