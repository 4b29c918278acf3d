"""Measurements, run as `python -m bench NAME` from the repository root; never installed. See bench/README.md."""
