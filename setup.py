"""Package metadata, and the CMake step that builds the C++ of fastmim_kernels.

Metadata is here rather than in pyproject.toml because setuptools takes a build step only from code. Build with
`pip install --no-build-isolation .`: the library is then compiled against an installed torch (2.10 or newer, since it
uses the stable ABI). With isolation, pip's build environment has no torch, and the package is installed without the
library.
"""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The interpreter's folder comes first: pip often installs cmake and ninja into an environment that is not activated.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])


def missing_tool() -> str | None:
    """Returns why the C++ ops cannot be built here, or None."""
    if not importlib.util.find_spec("torch"):
        return "torch is not installed in the build environment (use --no-build-isolation)"
    if not shutil.which("cmake", path=PATH):
        return "cmake was not found"
    if not any(shutil.which(name, path=PATH) for name in [os.environ.get("CXX", "c++").split()[0], "g++", "clang++"]):
        return "no C++ compiler was found"
    return None


class CMakeBuild(build_ext):
    """Runs CMake and puts the libraries beside the package.

    Editable and in-place builds put them in the source tree, and share one build folder: the second of the two
    compiles nothing.
    """

    @property
    def in_tree(self) -> bool:
        return self.inplace or getattr(self, "editable_mode", False)

    def libraries_built(self) -> list[Path]:
        folder = (ROOT / "kernels" if self.in_tree else Path(self.build_lib)) / "fastmim_kernels"
        return [folder / "_cpu.so", folder / "_reader.so"]

    def run(self) -> None:
        missing = missing_tool()
        if missing:
            print(
                f"fastmim: {missing}: C++ not built: no file reader, and CPU tensors will use the references",
                file=sys.stderr,
            )
            return
        torch = Path(importlib.util.find_spec("torch").origin).parent
        build = (ROOT / "build" if self.in_tree else Path(self.build_temp).resolve()) / "cmake"
        options = [f"-DTORCH_INCLUDE={torch / 'include'}", f"-DTORCH_LIB={torch / 'lib'}"]
        ninja = shutil.which("ninja", path=PATH)
        if ninja:  # named, since CMake may remember a ninja of a temporary environment that is gone
            options += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        cmake = shutil.which("cmake", path=PATH)
        subprocess.run([cmake, "-S", ROOT, "-B", build, *options], check=True)
        subprocess.run([cmake, "--build", build, "--parallel"], check=True)
        # The library is moved into place whole, so that a process with the old library mapped keeps it.
        for library in self.libraries_built():
            library.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(build / library.name, library.with_suffix(".new"))
            library.with_suffix(".new").replace(library)

    def get_outputs(self) -> list[str]:
        return [str(library) for library in self.libraries_built() if library.exists()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}

    def get_source_files(self) -> list[str]:
        native = [path.relative_to(ROOT) for path in (ROOT / "kernels").rglob("*") if path.suffix in (".h", ".cpp")]
        return ["CMakeLists.txt", *map(str, native)]


class Wheel(bdist_wheel):
    """Wheel for every Python 3, since the library links no Python."""

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


DETECT, SEGMENT = ["pycocotools>=2.0.8"], ["segmentation-models-pytorch>=0.5"]
ONNX = ["onnx>=1.18", "onnxruntime>=1.22", "onnxscript>=0.5"]

setup(
    name="fastmim",
    version=re.search(r'__version__ = "(.+)"', (ROOT / "fastmim" / "__init__.py").read_text())[1],
    description="Masked image modelling, fast: MAE and its relatives with fused kernels on CPU and GPU",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=[*find_packages(include=["fastmim", "fastmim.*"]), *find_packages("kernels")],
    package_dir={"fastmim": "fastmim", "fastmim_kernels": "kernels/fastmim_kernels"},
    package_data={"": ["py.typed"]},
    ext_modules=[Extension("fastmim_kernels._cpu", sources=[])],
    cmdclass={"build_ext": CMakeBuild, "bdist_wheel": Wheel},
    install_requires=[
        "torch>=2.11",
        "torchvision",
        "triton>=3.6; platform_system == 'Linux'",
        "timm>=1.0.20",
        "deepspeed>=0.17",
        "nvidia-dali-cuda130>=2.0; platform_system == 'Linux' and platform_machine == 'x86_64'",
        "numpy",
        "tyro",
        "rich",
        "safetensors",
        "pillow>=10.3",
        "matplotlib",
    ],
    extras_require={
        "test": [
            "pytest",
            "pytest-xdist",
            "hypothesis",
            "pyright[nodejs]",
            "ruff",
            "scikit-image",
            "torchmetrics",
            *DETECT,
            *SEGMENT,
            *ONNX,
        ],
        "detect": DETECT,
        "segment": SEGMENT,
        "onnx": ONNX,
        "tensorboard": ["tensorboard"],
        "demo": ["scikit-image"],
    },
    entry_points={"console_scripts": ["fastmim = fastmim.cli:main"]},
)
