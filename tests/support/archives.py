"""Files in folders and archives."""

import io
import tarfile
import zipfile


def as_folder(path, files):
    """Write files {name: bytes} into a folder; returns it."""
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def file_bytes(save):
    """The bytes that `save(file)` writes."""
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def zipped(files):
    """The bytes of a zip archive of files."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return file.getvalue()


def as_zip(path, files):
    """Write files into a zip archive; returns its path."""
    path = path.with_suffix(".zip")
    path.write_bytes(zipped(files))
    return path


def as_tar(mode):
    """Return the function that writes files into a tar archive, compressed as `mode` says."""

    def write(path, files):
        path = path.with_suffix(".tar")
        write_tar(path, files, mode)
        return path

    return write


def write_tar(path, files, mode):
    """Write files into a tar archive."""
    with tarfile.open(path, f"w:{mode}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
