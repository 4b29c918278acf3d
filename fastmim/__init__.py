"""fastmim: masked-image-modelling pre-training."""

__version__ = "0.1.0"
