"""Shim that lets pip build the native libraries: CMakeLists.txt compiles, pyproject.toml says the rest.

PST_FAST_CUDA=1 requires the CUDA kernels, 0 leaves them out; unset, they are built where nvcc is found and
PyTorch is a CUDA build.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


class CMakeBuild(build_ext):
    """Configure and build with CMake; for a wheel, put the libraries beside the package's copy."""

    def run(self) -> None:
        output = (
            ROOT / "pst_fast" if self.editable_mode or self.inplace else Path(self.build_lib) / "pst_fast"
        )
        output = output.resolve()
        output.mkdir(parents=True, exist_ok=True)
        folder = ROOT / "build" / "native"
        cmake = shutil.which("cmake")
        if cmake is None:
            raise SystemExit("pst_fast: cmake (3.25 or newer) is not on PATH")
        configure = [
            cmake, "-G", "Ninja", "-S", str(ROOT), "-B", str(folder),
            f"-DPST_FAST_PYTHON={sys.executable}",
            f"-DPST_FAST_OUTPUT={output}",
            f"-DPST_FAST_CUDA={os.environ.get('PST_FAST_CUDA', 'auto')}",
        ]  # fmt: skip
        subprocess.run(configure, check=True)
        subprocess.run([cmake, "--build", str(folder)], check=True)

    def get_outputs(self) -> list[str]:
        """The libraries are package data; setuptools need not copy any."""
        return []


setup(
    ext_modules=[Extension("pst_fast._C", sources=[])],
    cmdclass={"build_ext": CMakeBuild},
)
