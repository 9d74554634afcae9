"""Commands that a signal stops at any moment end as they should (see tests/support/signals.py)."""

import os
import signal
import time

import pytest

from kill import Life
from programmes import run_script


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("signals", "phases"), [(4, "decode,first step"), (2, "two processes,sample")])
def test_a_signal_at_a_random_moment_ends_a_command_which_goes_on_to_the_same_results(
    signals, phases, tmp_path
):
    """The script has more phases. Each takes about 25 seconds, most of it the command undisturbed."""
    run_script("signals", tmp_path, signals=signals, phases=phases)


@pytest.mark.slow
def test_a_process_that_lives_on_or_does_not_end_does_not_hold_up_the_script(foreground):
    def leave_another():
        os.setsid()
        if not os.fork():
            time.sleep(300)
            os._exit(0)

    began = time.monotonic()
    life = Life(["version"], leave_another)
    life.ends()
    os.killpg(life.pid, signal.SIGKILL)
    with pytest.raises(RuntimeError, match="has not ended"):
        Life(["version"], lambda: time.sleep(300)).ends(longest=1)
    assert time.monotonic() - began < 60
