"""Paths and freshness of the compiled libraries."""

from pathlib import Path

BUILD = "from the repository root run `python setup.py build_ext --inplace` (it needs cmake and a C++20 compiler)"


def path(name: str) -> Path:
    """Returns the file of a library, e.g. of `_cpu`."""
    return Path(__file__).with_name(f"{name}.so")


def problem(name: str) -> str | None:
    """Returns why a library must not be loaded, or None.

    A library is refused if it is missing, or older than the sources in the same package. A wheel has no sources.
    """
    library = path(name)
    shared = library.parent.with_name("csrc")
    sources = [*library.parent.rglob("*.cpp"), *library.parent.rglob("*.h"), *shared.glob("*.h")]
    if not library.exists():
        return f"the C++ library was not built ({library.name} is missing); to build it, {BUILD}"
    if any(source.stat().st_mtime > library.stat().st_mtime for source in sources):
        # An old library may expect other arguments than its callers pass, without any error.
        return f"the C++ library is older than its sources; to rebuild it, {BUILD}"
    return None
