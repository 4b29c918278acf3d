"""Benchmarks of whole training steps: time, memory, FLOPs, and the loader that feeds them."""
