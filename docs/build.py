"""Build the documentation and check it: `python docs/build.py [OUT]`, by default into build/docs.

Needs `pip install -e ".[docs]"`. Every warning is an error. The figures of pages are drawn while they are
built. Notebooks are shown with the outputs that they hold; to run one again, copy it to an empty folder and
use `jupyter execute --inplace photos.ipynb` there.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent


def build(out: Path) -> int:
    """Build the site into a folder and check every page; returns the exit code."""
    from sphinx.cmd.build import build_main

    sys.path[:0] = [str(DOCS / "extensions"), str(ROOT / "src")]
    from site_check import list_faults

    # The cells of pages find this library, and leave no image in the user's own cache.
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ.setdefault("DDIM_CACHE", str(ROOT / "build" / "docs-cache"))
    doctrees = str(ROOT / "build" / "doctrees")
    options = ["--fail-on-warning", "--keep-going", "--jobs", "auto", "--quiet"]
    code = build_main([*options, "-b", "html", "-d", doctrees, str(DOCS), str(out)])
    if code:
        return code
    faults = list_faults(out)
    for fault in faults:
        sys.stderr.write(f"{fault}\n")
    if not faults:
        sys.stdout.write(f"{out / 'index.html'}\n")
    return 1 if faults else 0


if __name__ == "__main__":
    if len(sys.argv) > 2 or (len(sys.argv) == 2 and sys.argv[1].startswith("-")):
        sys.exit(__doc__)
    sys.exit(build(Path(sys.argv[1] if len(sys.argv) == 2 else ROOT / "build" / "docs").resolve()))
