"""Sealed documents: a change is noticed, and named."""

import json
import math
from contextlib import suppress

import pytest

from ddim.errors import UserError
from ddim.files.documents import SEAL, read_json, read_sealed, write_sealed

DOCUMENT = {
    "kind": "samples",
    "seeds": [0, 1, 20],
    "metrics": {"kid": {"value": 0.1 + 0.2, "low": -1e-300}},
    "versions": {"python": "3.11", "name": "Ünï \u202e"},
    "none": None,
    "yes": True,
}


def test_a_sealed_document_is_returned_without_its_seal(tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT | {"pair": (1, 2)})
    assert read_sealed(path) == DOCUMENT | {"pair": [1, 2]}
    assert len(read_json(path)[SEAL]) == 64
    # A program that writes the same content in another layout does not break the seal.
    whole = dict(sorted(read_json(path).items()))
    path.write_text(json.dumps(whole, ensure_ascii=False))
    assert read_sealed(path) == DOCUMENT | {"pair": [1, 2]}


def test_a_changed_byte_of_a_sealed_document_is_refused_or_changes_nothing(tmp_path):
    """Each byte in turn, with another bit each time; a line break or the key of the seal holds no content."""
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT)
    data = path.read_bytes()
    refused = 0
    for place in range(len(data)):
        damaged = bytearray(data)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        found = None
        with suppress(UserError):
            found = read_sealed(path)
        if found is None:
            refused += 1
            continue
        assert {key: found[key] for key in DOCUMENT} == DOCUMENT
        assert all(len(key) == len(SEAL) for key in found if key not in DOCUMENT)
    assert refused > 0.8 * len(data)
    for length in range(len(data) - 2):
        path.write_bytes(data[:length])
        with pytest.raises(UserError, match=r"record\.json is damaged: "):
            read_sealed(path)


@pytest.mark.parametrize("change", [{"seeds": [0, 1]}, {"yes": 1}, {"none": 0}, {"more": 1}, {"seeds": None}])
def test_a_changed_value_breaks_the_seal_and_the_message_says_what_to_do(change, tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT)
    path.write_text(json.dumps(read_json(path) | change))
    with pytest.raises(UserError, match='has changed since ddim wrote it; put back a copy, .* entry "seal"'):
        read_sealed(path)
    # A user who means the change removes the seal.
    path.write_text(json.dumps(DOCUMENT | change))
    assert read_sealed(path) == DOCUMENT | change


@pytest.mark.parametrize(
    "text", ["[]", "3", '"seal"', "null", '{"a": NaN}', '{"a": Infinity}', "[" * 100_000, "\xff"]
)
def test_files_that_are_not_documents_are_named(text, tmp_path):
    path = tmp_path / "record.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match=r"record\.json is damaged: "):
        read_sealed(path)


def test_a_value_that_json_cannot_express_is_refused_before_the_file_changes(tmp_path):
    path = tmp_path / "record.json"
    write_sealed(path, DOCUMENT)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_sealed(path, {"kid": math.nan})
    assert path.read_bytes() == before
