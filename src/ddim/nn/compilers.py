"""Whether torch can compile networks on this machine: the programs and files that `torch.compile` needs."""

import os
import shutil
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path

import torch

OLDEST_GPU = 7, 0
"""The lowest compute capability for which Triton compiles."""


def can_compile(device: str) -> bool:
    """Return whether this machine has what torch needs to compile a network for a device.

    This is asked before a training chooses to compile, because a failed compilation would end the training.
    """
    if device.startswith("cuda"):
        # Triton compiles the code that starts its kernels with a C compiler; on Windows it brings its own.
        names = [os.environ["CC"]] if "CC" in os.environ else ["gcc", "clang"]
        tools = sys.platform == "win32" or (_has_header() and any(map(shutil.which, names)))
        found = tools and find_spec("triton") is not None
        return found and torch.cuda.get_device_capability(device) >= OLDEST_GPU
    # torch chooses the same name in torch/_inductor: `get_cpp_compiler`, and `cpp.cxx` of its config.
    name = os.environ.get("CXX", {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++"))
    tools = _has_apple_tools() if sys.platform == "darwin" else _has_header()
    return device == "cpu" and shutil.which(name) is not None and tools


def _has_header() -> bool:
    """Return whether the header of Python is installed, for which Debian has a package of its own."""
    # torch and Triton look in these folders too.
    scheme = "nt" if sys.platform == "win32" else "posix_prefix"
    return Path(sysconfig.get_path("include", scheme), "Python.h").is_file()


def _has_apple_tools() -> bool:
    """Return whether Apple's command line tools are installed.

    Without them, the compilers in /usr/bin only offer to install them. With them, Python's header is found.
    """
    return not subprocess.run(["/usr/bin/xcode-select", "-p"], capture_output=True, check=False).returncode
