"""Tests of the code base's rules: layers, names, sizes, configs, and the places of some calls."""

import ast
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRACKED = [
    ROOT / line
    for line in subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
]
MODULES = [p for p in TRACKED if p.suffix == ".py" and p.parts[len(ROOT.parts)] in ("fastmim", "kernels", "bench")]
OWN = [p for p in MODULES if p.is_relative_to(ROOT / "fastmim")]

# Folders and top-level modules of fastmim, the lowest first. Each imports only from earlier ones.
ORDER = (
    *("host", "tokens", "samples", "parts", "config", "model", "data", "engine", "run"),
    *("analysis", "convert", "recipe", "export", "tasks", "bittrace", "train", "cli"),
)
# `parts` imports from `model` for the type checker only.
EXCEPTIONS = {("parts", "model")}
# The libraries that each part of fastmim may import.
ONLY_IN = {
    "deepspeed": {"engine"},
    "nvidia": {"data"},
    "segmentation_models_pytorch": {"model"},
    "timm": {"model", "engine", "data", "tasks", "export"},
    "torchvision": {"data", "model", "tasks", "export"},
    "pycocotools": {"data", "analysis", "tasks"},
    "rich": {"run", "cli"},
    "tyro": {"config"},
}


# Files of the example task that fastmim/README.md adds.
PROPOSED = {"config/depth.py", "model/depth.py", "tasks/depth.py"}


def imports(path: Path) -> set[str]:
    """Returns the absolute names of all modules that a file imports, anywhere in it."""
    package = path.relative_to(ROOT).with_suffix("").parts[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = (
                ".".join([*package[: len(package) - node.level + 1], node.module or ""]) if node.level else node.module
            )
            found |= {f"{base}.{alias.name}".replace("..", ".") for alias in node.names}
    return found


def imported(statement: ast.stmt) -> list[str]:
    """Returns the names that a statement itself imports."""
    return [alias.name for alias in statement.names] if isinstance(statement, ast.Import | ast.ImportFrom) else []


def part(module: str) -> str:
    """Returns the module or package directly under fastmim: `fastmim.data.plain` is in `data`."""
    return module.split(".")[1]


@pytest.mark.parametrize("path", OWN, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    relative = path.relative_to(ROOT / "fastmim")
    own = relative.parts[0].removesuffix(".py")
    if own == "__init__":
        names = {alias for node in ast.parse(path.read_text()).body for alias in imported(node)}
        assert names == {"annotations", "TYPE_CHECKING"}, "`import fastmim` must not import anything heavy"
        return
    for module in imports(path):
        if module.startswith("fastmim.") and part(module) != own:
            other = part(module)
            below = ORDER.index(other) < ORDER.index(own)
            assert below or (own, other) in EXCEPTIONS, f"{relative} imports {module}, which is above it"
            assert not (own in ("data", "engine", "run") and other == "model"), f"{relative} imports {module}"
        for library, places in ONLY_IN.items():
            if module.split(".")[0] == library:
                assert own in places, f"{relative} imports {module}; only {sorted(places)} may"


def test_every_folder_has_its_place():
    modules = {path.relative_to(ROOT / "fastmim").parts[0].removesuffix(".py") for path in OWN}
    assert set(ORDER) == modules - {"__init__"}


def test_the_page_about_the_code_shows_the_tree_in_the_order_of_imports():
    tree = re.search(r"^```\nfastmim/\n(.*?)^```", (ROOT / "fastmim/README.md").read_text(), re.DOTALL | re.MULTILINE)
    named = [line.split()[0] for line in tree[1].splitlines()]
    assert all((ROOT / "fastmim" / name).exists() for name in named)
    assert [name.removesuffix(".py").removesuffix("/") for name in named] == list(reversed(ORDER))


def test_files_named_in_the_page_about_the_code_exist():
    text, folders = (ROOT / "fastmim/README.md").read_text(), "|".join(ORDER)
    for name in set(re.findall(rf"`((?:{folders})/\w+\.py)`", text)) - PROPOSED:
        assert (ROOT / "fastmim" / name).is_file(), f"fastmim/README.md names {name}, which does not exist"


def test_a_config_imports_the_recipe_alone():
    """A part can then move inside the package without a change of users' configs."""
    for path in TRACKED:
        if path.is_relative_to(ROOT / "configs") and path.suffix == ".py":
            found = [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Import | ast.ImportFrom)
            ]
            assert [getattr(node, "module", "") for node in found] == ["fastmim.recipe"], path.relative_to(ROOT)


def test_the_recipe_is_imports_and_its_export_list():
    from fastmim import recipe
    from fastmim.config.base import PARTS

    _, *statements, exports = ast.parse((ROOT / "fastmim/recipe.py").read_text()).body
    names = [name for node in statements for name in imported(node)]
    assert exports.targets[0].id == "__all__" and sorted(recipe.__all__) == sorted(names)
    found, waiting = set(), list(PARTS)
    while waiting:
        part = waiting.pop()
        waiting += part.__subclasses__()
        found |= {part.__name__} if part.__module__.startswith("fastmim.") and not part.__subclasses__() else set()
    assert found <= set(recipe.__all__), "a part that no config can name"


def test_kernels_are_the_bottom():
    for path in MODULES:
        if not path.is_relative_to(ROOT / "kernels"):
            continue
        for module in imports(path):
            top = module.split(".")[0]
            assert top not in ("fastmim", "bench", "timm", "deepspeed"), f"{path} imports {module}"
            assert top != "triton" or path.name == "cuda.py", f"{path} imports triton; only cuda.py may"
    assert not (ROOT / "kernels" / "__init__.py").exists(), "kernels/ must not be importable: see README"


def test_names_shadow_nothing():
    taken = set(sys.stdlib_module_names) | set(packages_distributions()) - {
        "fastmim",
        "fastmim_kernels",
        "bench",
        "tests",
    }
    for path in MODULES:
        if path.parent in (ROOT / "fastmim", ROOT / "bench"):
            assert path.stem == "__init__" or path.stem not in taken, f"{path.relative_to(ROOT)} shadows a module"


def test_references_are_short():
    for path in MODULES:
        if path.name == "reference.py":
            lines = len(path.read_text().splitlines())
            assert lines <= 30, f"{path.relative_to(ROOT)} has {lines} lines; at most 30"


def test_only_train_is_a_script():
    for path in OWN:
        if "sys.path" in path.read_text():
            assert path.name == "train.py", f"{path.relative_to(ROOT)} changes sys.path"


def test_every_op_is_whole():
    from fastmim_kernels import OPS

    for name in OPS:
        folder = ROOT / "kernels" / "fastmim_kernels" / name
        for file in ("__init__.py", "reference.py", "cuda.py", "cpu.cpp", "cases.py"):
            assert (folder / file).is_file(), f"op {name} lacks {file}"
        assert (ROOT / "tests" / "kernels" / f"test_{name}.py").is_file(), f"op {name} lacks a test of its name"


# Official checkpoints are pickles: one module opens them, with torch's restricted reader, which runs nothing in them.
RESTRICTED_READER = ROOT / "fastmim/convert/restricted_reader.py"
RESTRICTED = re.compile(r"from pickle import UnpicklingError|torch\.load\(.*, weights_only=True\b.*\)$")


def test_no_unsafe_loading():
    """No module executes the content of a file, except a config that the user names."""
    banned = re.compile(r"\b(pickle|torch\.load|yaml\.load|shell=True)\b|\b(eval|exec)\(")
    for path in MODULES:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path == RESTRICTED_READER and RESTRICTED.search(line.strip()):
                continue
            if banned.search(line) and "mim.eval()" not in line and ".eval()" not in line:
                pytest.fail(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")


WRITING = re.compile(
    r"\bopen\([^)]*[\"'](w|a|x|r\+)|write_text|write_bytes|\bsave_file\(|savefig|open_memmap|\.tofile\(|\bnp\.savez?\("
    r"|shutil\.(copy|move)|os\.(link|symlink)\(|O_CREAT|\.save\("
)
# `save` of our own classes, which use `host/files.py`; of libraries that get an open file; and into a new folder.
WRITTEN_ELSEWHERE = re.compile(
    r"(checkpoint|saver|self|manifest|program)\.save\(|\)\.save\(str\(target\)\)|image\.save\(file, "
)
WRITTEN_TO_A_FILE = re.compile(r"torch\.save\(.*(, file\)|, FILE\))")


def test_files_are_written_by_one_module():
    """A run folder may come from a stranger and hold links; see `fastmim/host/files.py`."""
    for path in OWN:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if path.name == "files.py" or WRITTEN_ELSEWHERE.search(line) or WRITTEN_TO_A_FILE.search(line):
                continue
            if path.name == "checkpoint.py" and "O_CREAT | os.O_EXCL" in line:
                continue  # a new file, durable and hashed during writing
            assert not WRITING.search(line), f"{path.relative_to(ROOT)}:{number} writes a file: {line.strip()}"


def test_no_machine_paths():
    pattern = re.compile(r"(^|[^\w.])/(home|root|work|Users)/\w")
    for path in TRACKED:
        if (
            path.suffix in (".py", ".md", ".toml", ".cpp", ".h", ".jsonl", ".txt", "")
            and path.is_file()
            and path != Path(__file__)
        ):
            assert not pattern.search(path.read_text(errors="replace")), (
                f"{path.relative_to(ROOT)} names a machine's path"
            )
