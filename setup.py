"""Builds km's compiled parts by driving CMake; every compile rule is in the CMake files."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent


def find_tool(package: str, directory: str) -> str | None:
    """Path of cmake or ninja: the one of the PyPI package, else the one on PATH."""
    try:
        module = __import__(package)
    except ImportError:
        return shutil.which(package)
    tool = Path(getattr(module, directory, "")) / package
    return str(tool) if tool.is_file() else shutil.which(package)


def run(*command: str) -> None:
    """Run a build step; on failure end with the lines that say what is missing."""
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode:
        text = " ".join(done.stderr.split())
        start = text.find("km needs ")
        reason = text[start:].split(" Call Stack")[0].split(" -- ")[0] if start >= 0 else ""
        raise SystemExit(reason or f"km: `{' '.join(command[:3])} ...` failed; see above")


class CMakeBuild(build_ext):
    """One CMake build makes all extension modules and installs them beside the Python files."""

    def run(self) -> None:
        """Configure, build and install into the package folder."""
        cmake = find_tool("cmake", "CMAKE_BIN_DIR")
        if cmake is None:
            raise SystemExit("km needs CMake 3.26 or newer: pip install cmake")
        build = str(Path(self.build_temp).resolve())
        prefix = str(ROOT / "bindings") if self.inplace else str(Path(self.build_lib).resolve())
        configure = ["-S", str(ROOT), "-B", build, "-DCMAKE_BUILD_TYPE=Release"]
        configure += ["-DKM_BUILD_PYTHON=ON", f"-DPython3_EXECUTABLE={sys.executable}"]
        ninja = find_tool("ninja", "BIN_DIR")
        if ninja:
            configure += ["-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={ninja}"]
        run(cmake, *configure)
        jobs = os.environ.get("CMAKE_BUILD_PARALLEL_LEVEL") or str(os.cpu_count() or 1)
        run(cmake, "--build", build, "--parallel", jobs, "--target", "_km", "_kmviz")
        run(cmake, "--install", build, "--prefix", prefix, "--component", "python")

    def get_outputs(self) -> list[str]:
        """CMake's install step decides; setuptools packages what is in the folder."""
        return []


setup(
    ext_modules=[
        Extension("km._km", [], py_limited_api=True),
        Extension("km._kmviz", [], py_limited_api=True),
    ],
    cmdclass={"build_ext": CMakeBuild},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
