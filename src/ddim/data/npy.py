"""Read and write the .npy format of NumPy, without the part of it that can run code."""

from __future__ import annotations

import io
import math
import tokenize
from typing import IO

import numpy as np

MAGIC = b"\x93NUMPY"
"""The first bytes of a .npy file."""

_HEADER = 10_000  # the longest header in bytes; one of a simple type has about a hundred


_BAD_HEADER = (ValueError, SyntaxError, TypeError, KeyError, EOFError, RecursionError, MemoryError)


class NotAnArrayError(Exception):
    """The bytes are not an array that can be used; the message is the reason."""


def read_npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Return the shape of the array in a .npy file, whether it is in Fortran order, and its dtype.

    Raises:
        NotAnArrayError: if the file is not a .npy file, or its dtype is not a plain type of numbers.
    """
    try:
        version = np.lib.format.read_magic(file)
        read = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, fortran, dtype = read(file, max_header_size=_HEADER)
    # NumPy reads the header as Python code of literals, in two ways.
    except (*_BAD_HEADER, tokenize.TokenError) as error:
        raise NotAnArrayError(f"a damaged array file: {' '.join(str(error).split())[:200]}") from None
    if dtype.hasobject:
        raise NotAnArrayError("an array of Python objects, which could run code: save it as numbers")
    if dtype.kind not in "biuf":
        raise NotAnArrayError(f"an array of {str(dtype)[:100]}: save it as numbers")
    return shape, fortran, dtype


def read_npy(file: IO[bytes], size: int) -> np.ndarray:
    """Return the array in a .npy file; an array of more than `size` bytes is refused, and never allocated.

    Raises:
        NotAnArrayError: for the reasons of `read_npy_header`, or if the array has more than `size` bytes or
            the file is too short.
    """
    shape, fortran, dtype = read_npy_header(file)
    needed = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or needed > size:
        raise NotAnArrayError(f"a damaged array file: {shape} of {dtype} needs {needed:,} bytes")
    content = file.read(needed)
    if len(content) < needed:
        raise NotAnArrayError(f"a damaged array file: {shape} of {dtype} needs {needed:,} bytes")
    values = np.frombuffer(content, dtype)
    return values.reshape(shape, order="F" if fortran else "C").astype(dtype.newbyteorder("="), copy=False)


def npy_header(shape: tuple[int, ...], dtype: str) -> bytes:
    """Return the header of a .npy file; the values must follow in C order, little-endian."""
    file = io.BytesIO()
    described = {"descr": np.dtype(dtype).newbyteorder("<").str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()


def render_npy(values: np.ndarray) -> bytes:
    """Return the content of the .npy file of an array."""
    little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return npy_header(values.shape, values.dtype.name) + little.tobytes()
