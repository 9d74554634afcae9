"""Hostile arrays, parquet files and CSV files."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from hostile_cases import GIB, Case, add, case, data, good, lengthened, partly


def npy(header: bytes, content: bytes = b"", version: tuple[int, int] = (1, 0)) -> bytes:
    """Return a .npy file with any header."""
    length = struct.pack("<H" if version == (1, 0) else "<L", len(header))
    return b"\x93NUMPY" + bytes(version) + length + header + content


def described(shape: object, dtype: object = "<u2", fortran: object = False) -> bytes:
    """Return the header of a .npy file."""
    return repr({"descr": dtype, "fortran_order": fortran, "shape": shape}).encode()


def array(content: bytes, sparse: int = 0) -> Case:
    """Return the case of a .npy file, which is lengthened to `sparse` bytes."""

    def make(folder: Path) -> list[str]:
        path = folder / "a.npy"
        path.write_bytes(content)
        if sparse:
            with path.open("r+b") as file:
                file.truncate(sparse)
        return ["data", "a.npy", "--size", "8"]

    return make


NPY = {
    "huge": npy(described((10**9, 10**9, 10**9))),
    "huge_images": npy(described((2, 10**6, 10**6))),
    "negative": npy(described((-1, 8, 8))),
    "beyond_64_bits": npy(described((10**30, 8, 8))),
    "of_objects": npy(described((2, 8, 8), "|O"), pickle.dumps([print])),
    "of_structures": npy(described((2, 8, 8), [("a", "<f4", (10**9,))])),
    "of_many_structures": npy(described((2,), [(f"a{k}", "<f4") for k in range(400)])),
    "of_dates": npy(described((2, 8, 8), "<M8[s]")),
    "of_letters": npy(described((2, 8, 8), "<U1000000000")),
    "nested": npy(b"(" * 9000 + b")" * 900),
    "nested_lists": npy(b"[" * 60_000),
    "a_call": npy(b"__import__('os').system('touch canary')"),
    "odd_code": npy(b"{'descr': (1 is 1), 'shape': '\\d'}"),
    "header_of_4_gib": npy(b"{" * 100, version=(2, 0)).replace(b"d\0\0\0", b"\xff\xff\xff\xff"),
    "header_of_version_9": npy(described((2, 8, 8)), version=(9, 9)),
    "of_truths": npy(described((True, True, True))),
    "of_fractions": npy(described((2.5, 8, 8))),
    "no_fortran": npy(described((2, 8, 8), fortran=10**3000)),
    "cut_off": npy(described((1000, 8, 8)), bytes(1000)),
}
for _name, _content in NPY.items():
    add(f"npy_{_name}", array(_content))
add("npy_of_a_billion_pixels_of_one_value", array(npy(described((2**30, 1, 1), "|u1")), GIB))
add("npy_fortran_of_a_gibibyte", array(npy(described((16, 2**13, 2**13), "|u1", True)), GIB + 200))


def packed(members: dict[str, tuple[bytes, int]]) -> Case:
    """Return the case of a .npz file; each array is (first bytes, number of zero bytes after them)."""

    def make(folder: Path) -> list[str]:
        with zipfile.ZipFile(folder / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
            for name, (content, zeros) in members.items():
                with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                    file.write(content)
                    for _ in range(zeros // 2**22):
                        file.write(bytes(2**22))
        return ["data", "a.npz", "--size", "8"]

    return make


add("npz_of_4_gib", packed({"images": (npy(described((256, 2**12, 2**12), "|u1")), 2 * GIB)}))
add("npz_of_a_billion_small_images", packed({"images": (npy(described((2**24, 8, 8), "|u1")), GIB)}))
add("npz_with_labels_of_a_gibibyte", packed({
    "images": (npy(described((2, 8, 8), "|u1"), bytes(128)), 0),
    "labels": (npy(described((2**30,), "|u1")), GIB),
}))  # fmt: skip
add("npz_of_objects", packed({"images": (NPY["of_objects"], 0)}))
add("npz_without_arrays", packed({}))


# Parquet


def table(columns: dict[str, object], change: Callable[[bytes], bytes] = bytes, **options: object) -> Case:
    """Return the case of a parquet file."""

    def make(folder: Path) -> list[str]:
        import pyarrow
        import pyarrow.parquet

        found = {name: value() if callable(value) else value for name, value in columns.items()}
        file = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(found), file, **options)
        (folder / "a.parquet").write_bytes(change(file.getvalue()))
        return data(folder / "a.parquet")

    return make


def _bombs(count: int) -> Callable[[], object]:
    return lambda: [bytes(64 * 2**20)] * count


add("parquet_of_one_bomb_100_times", table({"image": _bombs(4)}, compression="zstd", row_group_size=1))
add("parquet_of_a_dictionary_bomb", table({"image": _bombs(12)}, compression="zstd"))
add("parquet_of_plain_bombs", table({"image": _bombs(12)}, compression="gzip", use_dictionary=False))
add("parquet_of_a_delta_bomb", table(
    {"image": _bombs(12)}, compression="zstd", use_dictionary=False,
    column_encoding={"image": "DELTA_BYTE_ARRAY"},
))  # fmt: skip
add("parquet_of_a_million_nothings", table({"image": lambda: [None] * 10**6 + [b""]}))
add("parquet_with_lists_in_its_images", table(
    {"image": lambda: [{"bytes": good(), "more": [0] * 3 * 10**7}] * 2}, compression="zstd",
), part=True)  # fmt: skip
add("parquet_with_labels_that_lead_out", table({"image": [good()], "label": ["../../canary"]}))
add("parquet_cut_off", table({"image": [good()] * 50}, lambda content: content[:-100] + content[-8:]))
add(
    "parquet_damaged",
    table({"image": [good()] * 50}, lambda content: content[:4] + b"\xff" * 200 + content[204:]),
)
add("parquet_damaged_end", table({"image": [good()] * 50}, lambda c: c[:-60] + b"\xff" * 40 + c[-20:]))
add(
    "parquet_with_an_end_of_2_gib",
    table({"image": [good()]}, lambda c: c[:-8] + struct.pack("<L", 2**31 - 9) + c[-4:]),
)


# CSV


def vectors(write: Callable[[Path], object]) -> Case:
    """Return the case of a CSV file of vectors for 20 images."""

    def make(folder: Path) -> list[str]:
        write(folder / "a.csv")
        words = ["train", "blossoms:20", "--recipe", "smoke", "--net", "unet", "--data.vectors", "a.csv"]
        return [*words, "--out", "run"]

    return make


add("csv_of_1_gib", vectors(lengthened(GIB)))
add(
    "csv_of_one_line_of_200_mib",
    vectors(lambda path: path.write_bytes(b"1.25,2.5,3.75," * (200 * 2**20 // 14))),
)
add("csv_of_200_mib_of_zeros", vectors(lengthened(200 * 2**20)))
add("csv_of_30_million_rows", vectors(lambda path: path.write_bytes(b"1\n" * 30_000_000)))
add("csv_of_one_row_in_many_lines", vectors(lambda path: path.write_bytes(b'1,"\n",' * 10_000_000)))
add("csv_of_a_long_number", vectors(lambda path: path.write_bytes(b"1" * 100_000 + b"\n2\n")))
add(
    "csv_of_many_names",
    vectors(lambda path: path.write_text("".join(f"{k:0100d}x,1\n" for k in range(4 * 10**5)))),
)
add("csv_of_a_name_twice", vectors(
    lambda path: path.write_text("".join(f"{k}x,1\n" for k in range(200_000)) + "199999x,1\n")
))  # fmt: skip
add("csv_of_odd_bytes", vectors(lambda path: path.write_bytes(b"\xff\xfe\0\1,\n")))
add("csv_of_escapes", vectors(lambda path: path.write_text("\x1b[2J,1\n2,3\n")))


@partly
def arrays_beside_images(folder: Path) -> list[str]:
    """Arrays in a folder of images are no images."""
    (folder / "photos").mkdir()
    (folder / "photos" / "a.png").write_bytes(good())
    for name, content in NPY.items():
        (folder / "photos" / f"{name}.png").write_bytes(content)
    return data(folder / "photos")


@case
def array_of_images_in_a_zip(folder: Path) -> list[str]:
    np.save(folder / "x.npy", np.zeros((2, 8, 8), np.uint8))
    with zipfile.ZipFile(folder / "a.zip", "w") as archive:
        archive.write(folder / "x.npy", "images.npy")
    return data(folder / "a.zip")
