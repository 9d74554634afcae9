"""The planted bugs fit the sources: what is quick to see is seen here, before CI plants each of them."""

import re

import pytest

from mutants import MUTANTS, ROOT


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_has_one_place_and_tests_that_exist(mutant):
    assert (ROOT / "src" / "ddim" / mutant.file).read_text().count(mutant.old) == 1
    for test in mutant.tests:
        file, name = test.split("::")
        body = (ROOT / "tests" / file).read_text()
        assert re.search(rf"def {re.escape(name.split('[')[0])}\(", body), test


def test_no_two_planted_bugs_share_a_name():
    assert len({mutant.name for mutant in MUTANTS}) == len(MUTANTS)
