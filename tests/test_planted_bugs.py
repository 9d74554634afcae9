"""The planted bugs fit the sources and the tests as they are; `tests/planted_bugs.py` plants them."""

import pytest

from planted import find_bugs, find_fault

BUGS = find_bugs()


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.name)
def test_a_bug_can_be_planted(bug):
    assert find_fault(bug) is None


def test_the_list_stays_short_and_every_bug_has_its_own_name():
    assert len({bug.name for bug in BUGS}) == len(BUGS) <= 60
