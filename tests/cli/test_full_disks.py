"""Commands on a full disk end as they should (see tests/support/full_disks.py)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "support" / "full_disks.py"


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_after_so_many_bytes(tmp_path):
    """A quick test of one write is `test_a_full_disk_under_the_cache_has_its_own_exit_code`.

    The script has more commands and budgets.
    """
    words = [sys.executable, str(SCRIPT), str(tmp_path), "--budgets", "1", "--commands", "train,sample"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "mount" in done.stderr and not done.stdout:
        pytest.skip("this container may not mount a small disk")
    commands = json.loads(done.stdout)["commands"]
    assert {name: found["wrong"] for name, found in commands.items()} == dict.fromkeys(commands, [])
    assert all(found["full"] for found in commands.values())
