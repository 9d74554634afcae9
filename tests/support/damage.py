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


# Damage at random: functions of bytes, which must not be empty, and a `random.Random`


def flip(data, draw):
    """Flip one bit."""
    place = draw.randrange(len(data))
    return data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :]


def truncate(data, draw):
    """Keep a beginning, never all of it."""
    return data[: draw.randrange(len(data))]


def blank(data, draw):
    """Set up to 512 bytes to zero, as a lost sector does."""
    place = draw.randrange(len(data))
    length = len(data[place : place + 512])
    return data[:place] + bytes(length) + data[place + length :]


def cut(data, draw):
    """Leave out 1 to 16 bytes."""
    place = draw.randrange(len(data))
    return data[:place] + data[place + draw.randint(1, 16) :]


def repeat(data, draw):
    """Write up to 400 bytes up to five times more."""
    place, size = draw.randrange(len(data)), draw.randint(1, 400)
    return data[: place + size] + data[place : place + size] * draw.randint(1, 5) + data[place + size :]
