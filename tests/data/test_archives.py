"""Archives that others wrote: no archive ends in a traceback, or asks for more work than its size allows."""

import os
import tarfile
import types

import pytest

from archives import as_tar, as_zip
from bad_images import encoded, picture
from ddim.data import open_images
from ddim.data.cache import read_rejects
from ddim.data.label_files import LabelFile, name_classes
from ddim.data.sources import OTHER, Member, Reject
from ddim.errors import UserError
from hostile_archives import member, tarred  # it also fills CASES
from hostile_cases import CASES, PARTLY, good

SMALL = [
    "zip_version_above_6_3",
    "zip_name_that_is_no_utf_8",
    "zip_empty_name",
    "zip_damaged_extra_field",
    "zip_offset_beyond_its_end",
    "tar_of_2000_headers_in_a_row",
    "tar_of_2000_long_names_in_a_row",
    "tar_with_2000_headers_in_a_row_after_an_image",
    "tar_gnu_sparse_map",
    "tar_gnu_sparse_numbers",
    "tar_gnu_sparse_version",
    "tar_gnu_sparse_huge",
    "tar_pax_size_of_30_digits",
    "tar_pax_size_of_5000_digits",
    "tar_pax_name_with_bad_bytes",
]


@pytest.fixture(params=["installed", "newer"])
def version_of_tarfile(request, monkeypatch):
    """Newer versions of tarfile read the headers inside a member with private methods."""
    if request.param == "installed" or hasattr(tarfile.TarInfo, "_fromtarfile"):
        return
    private = {"frombuf": "_frombuf", "fromtarfile": "_fromtarfile"}
    for name, new in private.items():
        monkeypatch.setattr(tarfile.TarInfo, new, vars(tarfile.TarInfo)[name], raising=False)
    for name in ("fromtarfile", "_proc_gnulong", "_proc_pax"):
        code = getattr(tarfile.TarInfo, name).__code__
        names = tuple(private.get(called, called) for called in code.co_names)
        function = types.FunctionType(code.replace(co_names=names), vars(tarfile))
        monkeypatch.setattr(tarfile.TarInfo, name, classmethod(function) if name in private else function)


@pytest.mark.usefixtures("version_of_tarfile")
@pytest.mark.parametrize("name", SMALL)
def test_a_damaged_archive_is_refused_in_one_sentence_or_used_up_to_the_damage(name, tmp_path):
    path = tmp_path / CASES[name](tmp_path)[1]
    if name in PARTLY:
        assert len(open_images(path, (8, 8), cache=tmp_path / "cache")) == 1
        return
    with pytest.raises(UserError, match=r"'.*a\.(zip|tar)'") as refused:
        open_images(path, (8, 8), cache=tmp_path / "cache")
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("make", [as_zip, as_tar("gz"), as_tar("bz2"), as_tar("xz")])
def test_an_archive_that_unpacks_to_much_more_than_its_size_is_refused(make, tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.data.archives.SLACK", 10**6)
    bombs = {f"{k}.png": good() + bytes(10**7) for k in range(3)}
    path = make(tmp_path / "data", bombs)
    with pytest.raises(UserError, match="unpacks to more than 250 times its size: unpack it with another"):
        open_images(path, (8, 8), cache=tmp_path / "cache")


def test_skipped_members_count_too(tmp_path, monkeypatch):
    """A tar file that is packed has to be unpacked up to the next member."""
    monkeypatch.setattr("ddim.data.archives.SLACK", 10**6)
    path = as_tar("gz")(tmp_path / "data", {"a.png": good(), "b.bin": bytes(10**7), "c.png": good()})
    with pytest.raises(UserError, match="unpacks to more than"):
        open_images(path, (8, 8), cache=tmp_path / "cache")
    path = as_tar("")(tmp_path / "plain", {"a.png": good(), "b.bin": bytes(10**7), "c.png": good()})
    assert len(open_images(path, (8, 8), cache=tmp_path / "cache")) == 2


def test_many_tiny_members_count_too(tmp_path, monkeypatch):
    monkeypatch.setattr("ddim.data.archives.SLACK", 10**6)
    path = tmp_path / "a.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for _ in range(1000):
            archive.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(UserError, match="unpacks to more than"):
        open_images(path, (8, 8), cache=tmp_path / "cache")


@pytest.mark.usefixtures("version_of_tarfile")
def test_damage_in_the_middle_of_a_tar_is_not_taken_for_its_end(tmp_path):
    path = as_tar("")(tmp_path / "data", {f"{k}.png": encoded(picture(8, 8 + k), "PNG") for k in range(4)})
    content = bytearray(path.read_bytes())
    content[content.index(b"2.png")] ^= 1
    path.write_bytes(content)
    images = open_images(path, (8, 8), cache=tmp_path / "cache")
    assert images.names == ("0.png", "1.png")
    assert "damaged and cannot be read further" in read_rejects(images)[0].reason


@pytest.mark.usefixtures("version_of_tarfile")
@pytest.mark.parametrize(
    "headers, reason",
    [
        (member("x", b"name.png" * 2**18, tarfile.GNUTYPE_LONGNAME), "a header of 2,097,152 bytes"),
        (member("x", b"name.png", tarfile.GNUTYPE_LONGNAME) * 20, "more than 16 headers of one member"),
        (member("x", b"0 a=b\n", tarfile.XHDTYPE), "invalid header"),
    ],
)
def test_the_images_before_a_bad_header_are_used_and_the_reason_is_kept(headers, reason, tmp_path):
    tarred(tmp_path, member("a.png", good()), headers, member("b.png", good()))
    images = open_images(tmp_path / "a.tar", (8, 8), cache=tmp_path / "cache")
    assert images.names == ("a.png",)
    assert reason in read_rejects(images)[0].reason


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/proc/kmsg")])
@pytest.mark.parametrize("name", ["a.zip", "a.npy", "a.npz", "a.parquet"])
def test_only_regular_files_are_opened(make, name, tmp_path):
    """Opening a named pipe, or reading the messages of the kernel, would never end."""
    make(tmp_path / name)
    with pytest.raises(UserError) as refused:
        open_images(tmp_path / name, (8, 8), cache=tmp_path / "cache")
    assert str(refused.value).isprintable()


def test_images_with_one_key_are_not_kept_in_memory():
    """The first dots of such names end equal keys, as in scan.0001.png."""
    alive = 0

    def scans():
        nonlocal alive
        for k in range(500):
            alive += 1
            yield Member(f"scan.{k}.png", b"x")
        yield LabelFile("scan.cls", b"late")

    most = 0
    found = []
    for file in name_classes(scans()):
        most = max(most, alive - len(found))
        found.append(file)
    assert most < 100
    assert [file.name for file in found if isinstance(file, Member)] == [f"scan.{k}.png" for k in range(500)]
    assert found[-1] == Reject("scan.cls", OTHER)
