"""Damage to files."""


def damage_file(path, change=None):
    """Replace the bytes of a file by `change` of them, or remove it."""
    if change is None:
        path.unlink()
    else:
        path.write_bytes(change(path.read_bytes()))


def flip_bit(data, place=-3):
    """Return bytes with one bit flipped."""
    data = bytearray(data)
    data[place] ^= 1
    return bytes(data)
