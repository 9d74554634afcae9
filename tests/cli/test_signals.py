"""Commands that a signal stops at any moment end as they should (see tests/support/signals.py)."""

import pytest

from programmes import run_script


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("signals", "phases"), [(4, "decode,first step"), (2, "two processes,sample")])
def test_a_signal_at_a_random_moment_ends_a_command_which_goes_on_to_the_same_results(
    signals, phases, tmp_path
):
    """The script has more phases. Each takes about 25 seconds, most of it the command undisturbed."""
    run_script("signals", tmp_path, signals=signals, phases=phases)
