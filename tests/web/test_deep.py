"""A run on images of 8 channels of 16 bits: pictures of its images are shown, and exact arrays are saved."""

import io
import shlex
import zipfile

import numpy as np
import pytest
from PIL import Image

from ddim.cli import main
from deep_files import noise16, png16


def picture(client, url):
    answer = client.get(url)
    assert answer.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(answer.content)) as image:
        return np.asarray(image)


def array(client, url):
    return np.load(io.BytesIO(client.get(url).content))


def upload(client, content):
    answer = client.post("/api/uploads", content=content)
    assert answer.status_code == 200, answer.text
    return answer.json()["upload"]


def npy(pixels):
    content = io.BytesIO()
    np.save(content, pixels)
    return content.getvalue()


def check_images(client, images, folder):
    """Check that each file is that of the command, and its picture the first three channels in 8 bits."""
    for image in images:
        exact = array(client, image["file"])
        assert np.array_equal(exact, np.load(folder / image["name"]))
        assert (exact.shape, exact.dtype) == ((16, 16, 8), np.uint16)
        shown = np.rint(exact[..., :3] / 65535.0 * 255)
        assert abs(picture(client, image["url"]) - shown).max() <= 1


def test_samples_are_shown_and_saved_exactly(client, deep_run, tmp_path, capsys):
    found = client.post(f"/api/runs/{deep_run}/samples", json={"seeds": [3, 4], "film": True}).json()
    assert main([*shlex.split(found["command"])[1:], "--out", str(tmp_path / "own"), "--quiet"]) == 0
    check_images(client, found["images"], tmp_path / "own")
    assert "the first 3 of 8 channels" in found["notes"][0]
    assert client.get(found["sheet"]).content == (tmp_path / "own/grid.png").read_bytes()
    with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
        assert set(archive.namelist()) == {path.name for path in (tmp_path / "own").iterdir()}
        stack = np.load(io.BytesIO(archive.read("samples.npy")))
    assert np.array_equal(stack, [array(client, image["file"]) for image in found["images"]])


@pytest.mark.parametrize("kind", ["vary", "inpaint"])
def test_edits_are_shown_and_saved_exactly(client, deep_run, kind, tmp_path, monkeypatch, capsys):
    images = [noise16(16, 16, 8, seed=seed) for seed in range(2 if kind == "interpolate" else 1)]
    sources = [{"upload": upload(client, npy(each))} for each in images]
    body = {"kind": kind, "sources": [{"seed": 3}] if kind == "vary" else sources, "steps": 2}
    if kind in ("vary", "inpaint"):
        body["n"] = 1
    if kind == "inpaint":
        hole = np.zeros((16, 16), np.uint8)
        hole[:8] = 255
        content = io.BytesIO()
        Image.fromarray(hole).save(content, "PNG")
        body |= {"mask": upload(client, content.getvalue()), "resample": 1}
    answer = client.post(f"/api/runs/{deep_run}/edits", json=body)
    assert answer.status_code == 200, answer.text
    found = answer.json()
    monkeypatch.chdir(tmp_path)
    with zipfile.ZipFile(io.BytesIO(client.get(found["archive"]).content)) as archive:
        assert not [name for name in archive.namelist() if name.startswith("view-")]
        archive.extractall()
    for command in found["command"].splitlines():
        words = shlex.split(command)[1:]
        assert main([*words, *([] if "--out" in words else ["--out", "own"]), "--quiet"]) == 0
    check_images(client, found["images"], tmp_path / "own")
    if kind == "inpaint":
        assert np.array_equal(array(client, found["images"][0]["file"])[8:], images[0][8:])


def test_the_run_is_listed_and_its_sheets_are_pictures(client, deep_run):
    details = client.get(f"/api/runs/{deep_run}").json()
    assert (details["state"], details["size"], details["can_sample"]) == ("finished", [16, 16], True)
    for url in (details["real_sheet"], details["sheets"][-1]["url"]):
        assert picture(client, url).shape[2] == 3


def test_images_of_more_bits_can_be_uploaded_and_damaged_arrays_cannot(client):
    for content in (npy(noise16(20, 30, 8)), png16(noise16(20, 30, 3))):
        found = client.post("/api/uploads", content=content).json()
        assert (found["width"], found["height"]) == (30, 20)
    for content in (
        npy(noise16(20, 30, 8))[:-8],
        npy(np.zeros(4)),
        npy(np.full((4, 4, 2), np.nan, np.float32)),
    ):
        answer = client.post("/api/uploads", content=content)
        assert answer.status_code == 422
        assert "cannot be used" in answer.json()["error"]
