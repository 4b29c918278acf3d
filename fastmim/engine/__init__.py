"""One optimizer update on DeepSpeed: settings, parameter groups, optimizers, processes, and the training state."""
