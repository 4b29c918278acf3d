"""Measures and pictures of what a run has learnt: scores, trivial predictors, reconstructions, loss curves."""
