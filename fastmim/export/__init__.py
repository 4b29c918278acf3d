"""Trained encoders for other libraries, and runs as official checkpoints."""
