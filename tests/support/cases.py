"""Cases of parametrised tests of which only some run without `-m slow`."""

import pytest


def mark_slow(cases, quick):
    """Return the cases as parameters; those for which `quick(case)` is false are marked as slow."""
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), marks=() if quick(case) else SLOW)
        for case in cases
    ]


SLOW = pytest.mark.slow
