"""Packages that only some runs and commands need: imported by one function, refused in one line.

Standard library only.
"""

from __future__ import annotations

import importlib

PACKAGES = {
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "skimage": "scikit-image",
}
"""Name of the package that installs a module, where pip knows it by another name."""


def require(purpose: str, *modules: str) -> None:
    """Imports modules, or says which command installs all that are missing, in a clone and for an installed wheel.

    Args:
        purpose: what needs the modules, such as a setting by its full name; starts the message.

    Raises:
        ValueError: some modules cannot be imported.
    """
    missing, broken = [], []
    for module in modules:
        top = module.partition(".")[0]
        package = PACKAGES.get(top, top)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(package)
        except Exception as error:  # a package that is installed in part, or for another Python, can raise anything
            broken.append(f"{package}, which cannot be imported ({' '.join(str(error).split())})")
    if missing:
        names, verb = " ".join(missing), "are" if len(missing) > 1 else "is"
        raise ValueError(
            f"{purpose} needs {' and '.join(missing)}, which {verb} not installed: run `pip install {names}`"
        )
    if broken:
        names = " ".join(words.partition(",")[0] for words in broken)
        raise ValueError(
            f"{purpose} needs {' and '.join(broken)}: run `pip install --force-reinstall --no-deps {names}`"
        )
