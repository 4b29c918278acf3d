"""One optimizer update on DeepSpeed: settings, parameter groups, processes."""
