"""Conversion of weights from and to official checkpoints, and to detection libraries' backbones."""
