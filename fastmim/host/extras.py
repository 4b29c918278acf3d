"""Check of optional packages that names every missing package in one line. Standard library only."""

from __future__ import annotations

import importlib

PACKAGES = {
    "segmentation_models_pytorch": "segmentation-models-pytorch",
    "skimage": "scikit-image",
}
"""{module: package}, for modules whose package has another name."""


def require(purpose: str, *modules: str) -> None:
    """Checks that optional modules can be imported.

    Args:
        purpose: start of the message, such as the full name of the setting that needs the modules.
        modules: names of the modules.

    Raises:
        ValueError: a module cannot be imported; the message holds the command that installs all missing packages.
    """
    missing, broken = [], []
    for module in modules:
        top = module.partition(".")[0]
        package = PACKAGES.get(top, top)
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(package)
        except Exception as error:  # a package that is broken, or built for another Python, can raise any error
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
