"""Commands on a full disk end as they should (see tests/support/full_disks.py)."""

import os
import subprocess
import sys

import pytest

from programmes import run_script


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="only root can mount a small disk")
def test_a_disk_that_is_full_after_so_many_bytes(tmp_path):
    """A quick test of one write is `test_a_full_disk_under_the_cache_has_its_own_exit_code`.

    The script has more commands and budgets.
    """
    (tmp_path / "disk").mkdir()
    mount = ["unshare", "--mount", "mount", "-t", "tmpfs", "ddim-test", tmp_path / "disk"]
    if subprocess.run(mount, check=False).returncode:
        pytest.skip("this container may not mount a small disk")
    run_script("full_disks", tmp_path / "home", budgets=1, commands="train,sample")
