"""Where the compiled libraries lie and whether they can be trusted. May import the standard library only."""

from pathlib import Path

BUILD = "from the repository root run `python setup.py build_ext --inplace` (it needs cmake and a C++20 compiler)"


def path(name: str) -> Path:
    """The file of one library, e.g. `_cpu`."""
    return Path(__file__).with_name(f"{name}.so")


def problem(name: str) -> str | None:
    """Why a library must not be loaded: it is missing, or older than the sources beside it (a wheel has none)."""
    library = path(name)
    shared = library.parent.with_name("csrc")
    sources = [*library.parent.rglob("*.cpp"), *library.parent.rglob("*.h"), *shared.glob("*.h")]
    if not library.exists():
        return f"the C++ library was not built ({library.name} is missing); to build it, {BUILD}"
    if any(source.stat().st_mtime > library.stat().st_mtime for source in sources):
        # Its functions may take other arguments than the callers pass, and nothing would notice.
        return f"the C++ library is older than its sources; to rebuild it, {BUILD}"
    return None
