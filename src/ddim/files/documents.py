"""Read and write JSON documents whose seals show whether they have changed since they were written.

A seal is the SHA-256 of all other entries of a document.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ddim.errors import UserError
from ddim.files import read_file, write_atomic

LARGEST = 32 * 2**20
"""The largest document that is read, in bytes. Three bytes of JSON, such as `[],`, can take 72 in memory.

The largest document that ddim writes lists 100,000 images.
"""

SEAL = "seal"
"""The entry of a document with the SHA-256 of its other entries."""


def write_json(path: Path, document: object) -> None:
    """Write `document` as JSON to `path`; see `write_atomic`. After an error, `path` is unchanged.

    Raises:
        ValueError: if the document contains NaN or an infinity.
        TypeError: if the document contains a value that JSON cannot express.
    """
    write_atomic(path, json.dumps(document, indent=2, allow_nan=False).encode() + b"\n")


def read_json(path: Path, most: int = LARGEST) -> Any:  # noqa: ANN401 (JSON)
    """Return the JSON document in a file of at most `most` bytes.

    Raises:
        UserError: if the file cannot be read, is not JSON, or is larger.
    """

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is not a number in JSON")

    try:
        return json.loads(read_file(path, most), parse_constant=refuse)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    except UserError:
        raise
    # Deeply nested brackets raise RecursionError.
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: it is not JSON ({error})") from error


def seal(document: Mapping[str, object]) -> dict[str, Any]:
    """Return a document with a first entry `SEAL`, the SHA-256 of its other entries.

    A seal shows accidents and careless edits, not malice: whoever writes a file can also seal it.

    Raises:
        ValueError: if the document contains NaN or an infinity.
        TypeError: if the document contains a value that JSON cannot express.
    """
    plain = json.loads(json.dumps(document, allow_nan=False))
    # The first entry, because a few lost bytes at the end could join a seal to the text before it.
    return {SEAL: _hash_entries(plain), **plain}


def unseal(document: Mapping[str, Any], name: object) -> dict[str, Any]:
    """Return a document without its seal, after checking that nothing has changed since it was sealed.

    A document without a seal is returned as it is: a user changed it on purpose, and removed the seal.

    Args:
        document: the document.
        name: the file of the document, for the message.

    Raises:
        UserError: if an entry has changed.
    """
    content = {key: value for key, value in document.items() if key != SEAL}
    if SEAL in document and document[SEAL] != _hash_entries(content):
        raise UserError(
            f"{name} is damaged: it has changed since ddim wrote it; put back a copy, or remove it and "
            f'make it again, or remove its entry "{SEAL}" if you changed it on purpose'
        )
    return content


def render_sealed(document: Mapping[str, object]) -> bytes:
    """Return a sealed document as the bytes of a JSON file; see `seal`."""
    return json.dumps(seal(document), indent=2).encode() + b"\n"


def write_sealed(path: Path, document: Mapping[str, object]) -> None:
    """Write a document with a seal as JSON to `path`; see `seal` and `write_atomic`."""
    write_atomic(path, render_sealed(document))


def read_sealed(path: Path) -> dict[str, Any]:
    """Return the document in a file that `write_sealed` wrote, without its seal.

    Raises:
        UserError: if the file cannot be read, or has changed.
    """
    document = read_json(path)
    if not isinstance(document, dict):
        raise UserError(f"{path} is damaged: it is not a table of entries")
    return unseal(document, path)


def _hash_entries(document: Mapping[str, Any]) -> str:
    # Keys are sorted, so that a program that only writes the file anew does not break the seal.
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
