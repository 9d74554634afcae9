"""Hostile zip and tar files."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from bad_images import png
from hostile_cases import GIB, add, case, data, good, partly

# Zip


def zipped(path: Path, members: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytearray:
    """Write a zip file, and return its bytes."""
    with zipfile.ZipFile(path, "w", how) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return bytearray(path.read_bytes())


def patched(
    folder: Path, change: Callable[[bytearray], object], members: dict[str, bytes] | None = None
) -> list[str]:
    """Write a zip file whose bytes are changed."""
    path = folder / "a.zip"
    content = zipped(path, {"a.png": good()} if members is None else members)
    change(content)
    path.write_bytes(content)
    return data(path)


@case
def zip_with_one_member_60_times(folder: Path) -> list[str]:
    path = folder / "a.zip"
    image = png(8, 8, 8, 0, bytes(2**27))
    zipped(path, {"a.png": image + bytes(2**27 - len(image))})
    with zipfile.ZipFile(path) as archive:
        one = archive.infolist()[0]
        start = archive.start_dir
    whole = path.read_bytes()
    entry = whole[start : whole.rindex(b"PK\5\6")]
    # Python compares the names here with those beside the content.
    entries = entry * 60
    assert one.header_offset == 0
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 60, 60, len(entries), start, 0)
    path.write_bytes(whole[:start] + entries + end)
    return data(path)


@case
def zip_of_20_bombs(folder: Path) -> list[str]:
    path = folder / "a.zip"
    zipped(path, {f"{k}.png": bytes(2**26) for k in range(20)})
    return data(path)


@case
def zip_version_above_6_3(folder: Path) -> list[str]:
    path = folder / "a.zip"
    content = zipped(path, {"a.png": good(), "b.png": good()})
    place = content.index(b"PK\1\2")
    content[place + 6 : place + 8] = struct.pack("<H", 64)
    path.write_bytes(content)
    return data(path)


@case
def zip_name_that_is_no_utf_8(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        place = content.index(b"PK\1\2")
        content[place + 8 : place + 10] = struct.pack("<H", 0x800)
        content[place + 46 : place + 48] = b"\xff\xfe"

    return patched(folder, change)


@case
def zip_empty_name(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        place = content.index(b"PK\1\2")
        content[place + 28 : place + 30] = struct.pack("<H", 0)
        content[place + 32 : place + 34] = struct.pack("<H", 5)

    return patched(folder, change)


@case
def zip_offset_beyond_its_end(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        place = content.index(b"PK\1\2")
        content[place + 42 : place + 46] = struct.pack("<L", 2**32 - 2)

    return patched(folder, change)


@case
def zip_damaged_extra_field(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        place = content.index(b"PK\1\2")
        content[place + 28 : place + 30] = struct.pack("<H", 1)
        content[place + 30 : place + 32] = struct.pack("<H", 4)
        content[place + 47 : place + 51] = b"\1\0\xff\xff"

    return patched(folder, change)


@case
def zip_unknown_method(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        for mark, at in ((b"PK\3\4", 8), (b"PK\1\2", 10)):
            place = content.index(mark) + at
            content[place : place + 2] = struct.pack("<H", 99)

    return patched(folder, change)


@case
def zip_encrypted(folder: Path) -> list[str]:
    def change(content: bytearray) -> None:
        for mark, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
            place = content.index(mark) + at
            content[place : place + 2] = struct.pack("<H", 1)

    return patched(folder, change)


@partly
def zip_lzma_with_a_huge_dictionary(folder: Path) -> list[str]:
    path = folder / "a.zip"
    content = zipped(path, {"a.png": good()}, zipfile.ZIP_LZMA)
    place = content.index(b"\x5d")
    content[place + 1 : place + 5] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    return data(path)


@partly
def zip_that_leads_out(folder: Path) -> list[str]:
    path = folder / "a.zip"
    zipped(
        path,
        {"a.png": good(), "../canary.png": good(), "/tmp/canary.png": good(), "b/../../canary.png": good()},
    )
    return data(path)


@partly
def zip_with_a_link(folder: Path) -> list[str]:
    path = folder / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", good())
        link = zipfile.ZipInfo("canary.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return data(path)


@case
def zip_of_100_000_empty_files(folder: Path) -> list[str]:
    path = folder / "a.zip"
    entry = b"".join(
        struct.pack("<4s4B4HL2L5H2L", b"PK\1\2", 20, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0)
        + b"%05x" % (k % 2**20)
        for k in range(100_000)
    )
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 2**16 - 1, 2**16 - 1, len(entry), 0, 0)
    path.write_bytes(entry + end)
    return data(path)


# Tar


def header(name: str = "a.png", size: int = 0, kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    """Return the header of a member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    info.pax_headers = dict(more)
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(content: bytes) -> bytes:
    """Return content in whole blocks of 512 bytes."""
    return content + bytes(-len(content) % 512)


def member(name: str, content: bytes, kind: bytes = tarfile.REGTYPE) -> bytes:
    """Return a member of a tar file."""
    return header(name, len(content), kind) + padded(content)


def pax(**fields: str) -> bytes:
    """Return a pax header, whose fields have dots in place of double underscores."""
    lines = b""
    for name, value in fields.items():
        text = f" {name.replace('__', '.')}={value}\n".encode()
        length = len(text)
        while len(str(length)) + len(text) != length:
            length = len(str(length)) + len(text)
        lines += str(length).encode() + text
    return member("pax", lines, tarfile.XHDTYPE)


def tarred(folder: Path, *parts: bytes, ending: str = ".tar") -> list[str]:
    """Write a tar file."""
    path = folder / f"a{ending}"
    pack = {".tar": bytes, ".tar.gz": gzip.compress, ".tar.bz2": bz2.compress, ".tar.xz": lzma.compress}[
        ending
    ]
    path.write_bytes(pack(b"".join(parts) + bytes(1024)))
    return data(path)


def squeezed(path: Path, ending: str, start: bytes, zeros: int) -> None:
    """Write `start` and so many zeros in packed form, without making them all."""
    part = bytes(2**24)
    if ending == "gz":
        packer = zlib.compressobj(9, wbits=31)
    else:
        packer = bz2.BZ2Compressor(9) if ending == "bz2" else lzma.LZMACompressor(preset=0)
    with path.open("wb") as file:
        file.write(packer.compress(start))
        for _ in range(zeros // len(part)):
            file.write(packer.compress(part))
        file.write(packer.flush())


@case
def tar_bz2_with_a_member_of_a_tebibyte(folder: Path) -> list[str]:
    path = folder / "a.tar.bz2"
    # The zeros of 64 MiB are one block again and again.
    start = member("good.png", good()) + header("large.png", 2**40)
    zeros = bz2.compress(bytes(900_000 * 8))
    path.write_bytes(bz2.compress(start) + zeros * 150_000)
    return data(path)


for _ending, _zeros in (("gz", 4 * GIB), ("xz", 4 * GIB)):

    def _large(folder: Path, ending: str = _ending, zeros: int = _zeros) -> list[str]:
        path = folder / f"a.tar.{ending}"
        squeezed(path, ending, header("large.png", zeros), zeros)
        return data(path)

    add(f"tar_{_ending}_with_4_gib", _large)


def _long(folder: Path, kind: bytes, start: bytes = b"") -> list[str]:
    path = folder / "a.tar.gz"
    squeezed(path, "gz", header("././@LongLink", 3 * GIB, kind) + start, 3 * GIB)
    return data(path)


add("tar_long_name_of_3_gib", partial(_long, kind=tarfile.GNUTYPE_LONGNAME))
add("tar_long_link_of_3_gib", partial(_long, kind=tarfile.GNUTYPE_LONGLINK))
add("tar_pax_header_of_3_gib", partial(_long, kind=tarfile.XHDTYPE))
add("tar_global_pax_header_of_3_gib", partial(_long, kind=tarfile.XGLTYPE))
add("tar_solaris_header_of_3_gib", partial(_long, kind=b"X"))


@case
def tar_of_2000_headers_in_a_row(folder: Path) -> list[str]:
    return tarred(folder, pax(comment="x") * 2000, member("a.png", good()))


@case
def tar_of_2000_long_names_in_a_row(folder: Path) -> list[str]:
    return tarred(folder, member("x", b"name", tarfile.GNUTYPE_LONGNAME) * 2000, member("a.png", good()))


@partly
def tar_with_2000_headers_in_a_row_after_an_image(folder: Path) -> list[str]:
    return tarred(folder, member("good.png", good()), pax(comment="x") * 2000, member("a.png", good()))


_SPARSE = {
    "map": {"GNU__sparse__map": "x,y"},
    "numbers": {"GNU__sparse__numblocks": "x", "GNU__sparse__size": "y"},
    "version": {"GNU__sparse__major": "1", "GNU__sparse__minor": "0"},
    "size": {
        "GNU__sparse__major": "0",
        "GNU__sparse__minor": "1",
        "GNU__sparse__size": "z",
        "GNU__sparse__map": "0,1",
    },
    "huge": {"GNU__sparse__map": "0,1", "GNU__sparse__size": str(2**40), "GNU__sparse__realsize": str(2**40)},
}
for _name, _fields in _SPARSE.items():

    def _sparse(folder: Path, fields: dict[str, str] = _fields) -> list[str]:
        return tarred(folder, pax(**fields), member("a.png", good()))

    add(f"tar_gnu_sparse_{_name}", _sparse)


@case
def tar_old_sparse_of_a_tebibyte(folder: Path) -> list[str]:
    block = bytearray(header("a.png", 512, tarfile.GNUTYPE_SPARSE))
    block[386:398], block[398:410] = b"00000000000\0", b"00000001000\0"
    block[482], block[483:495] = 0, b"77777777777\0"
    block[148:156] = b"        "
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return tarred(folder, bytes(block), bytes(512))


@case
def tar_of_1000_sparse_files_of_100_mib(folder: Path) -> list[str]:
    fields = {"GNU__sparse__map": "0,1", "GNU__sparse__size": str(100 * 2**20), "GNU__sparse__numblocks": "1"}
    return tarred(folder, *[pax(**fields) + member(f"{k}.png", b"x") for k in range(1000)])


for _digits in (12, 30, 4000, 5000):

    def _size(folder: Path, digits: int = _digits) -> list[str]:
        return tarred(folder, pax(size="1" + "0" * digits), member("a.png", good()))

    add(f"tar_pax_size_of_{_digits}_digits", _size)


@partly
def tar_pax_that_is_no_pax(folder: Path) -> list[str]:
    # Newer versions of tarfile refuse this header, so an image comes before it.
    bad = member("x", b"99999999999 a=b\n", tarfile.XHDTYPE)
    return tarred(folder, member("a.png", good()), bad, member("b.png", good()))


@case
def tar_pax_name_with_bad_bytes(folder: Path) -> list[str]:
    return tarred(
        folder, member("x", b"18 path=\xff\xfe.png\n\n\n", tarfile.XHDTYPE), member("a.png", good())
    )


@partly
def tar_that_leads_out(folder: Path) -> list[str]:
    names = ("../canary.png", "/tmp/canary.png", "b/../../canary.png")
    return tarred(folder, member("a.png", good()), *[member(name, good()) for name in names])


@partly
def tar_with_links_and_devices(folder: Path) -> list[str]:
    parts = [member("a.png", good())]
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo(f"canary{kind.decode()}.png")
        info.type, info.linkname = kind, "/etc/passwd"
        parts.append(info.tobuf())
    return tarred(folder, *parts)


@partly
def tar_with_escapes_in_names(folder: Path) -> list[str]:
    return tarred(folder, member("a.png", good()), member("\x1b[2J\x1b]0;x\x07.png", good()))


@case
def tar_gz_of_a_million_empty_files(folder: Path) -> list[str]:
    path = folder / "a.tar.gz"
    packer = zlib.compressobj(9, wbits=31)
    part = header("a.png") * 1000
    path.write_bytes(b"".join([packer.compress(part) for _ in range(1000)]) + packer.flush())
    return data(path)


@case
def tar_xz_with_a_huge_dictionary(folder: Path) -> list[str]:
    path = folder / "a.tar.xz"
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0}]
    content = bytearray(lzma.compress(member("a.png", good()) + bytes(1024), filters=filters))
    # The size of the dictionary is a byte of the header of the block; its checksum follows.
    place = content.index(b"\x21\x01", 12) + 2
    content[place] = 40
    size = (content[12] + 1) * 4
    content[12 + size - 4 : 12 + size] = struct.pack("<L", zlib.crc32(content[12 : 12 + size - 4]))
    path.write_bytes(content)
    return data(path)


@case
def webdataset_with_labels_of_a_mebibyte(folder: Path) -> list[str]:
    parts = [member("a.json", b'{"cls":' + b"[" * 10**6) for _ in range(50)]
    return tarred(folder, *parts, ending=".tar.gz")


@case
def webdataset_of_one_key(folder: Path) -> list[str]:
    """All files have one key, and those of a key are read together."""
    images = member("a.png", good() + bytes(2**20)) * 60
    return tarred(folder, images * 30, member("a.cls", b"../up"), ending=".tar.gz")
