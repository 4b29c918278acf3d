"""fastmim: masked-image-modelling pre-training."""

__version__ = "0.1.0"


def load(path):
    """A trained encoder in evaluation mode, and the transform of its images; see `fastmim.export.load.load`."""
    from .export.load import load as load_encoder  # only now: the package itself imports nothing

    return load_encoder(path)
