"""Trained encoders for other libraries, and run folders from and for official checkpoints."""
