"""Checkpoints with any content, under a manifest that fits."""

import hashlib
import json

from ddim.files import seal


def forge_checkpoint(path, contents, **fields):
    """Write files, given as bytes by name, and a manifest that fits them; `fields` replace its entries."""
    path.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    manifest = {"step": 1, "best": False, "files": hashes} | fields
    (path / "MANIFEST.json").write_text(json.dumps(seal(manifest)))
    return path
