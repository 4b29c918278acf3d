"""Measures and pictures of a run: scores, trivial predictors, reconstructions, loss curves."""
