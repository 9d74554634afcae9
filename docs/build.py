"""Build the documentation and check it: `python docs/build.py [OUT]`, by default into build/docs.

Needs `pip install -e ".[docs,metrics]"`. Every warning is an error. Notebooks run while it is built; their
results are kept in build/notebooks until a file of the library changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
NOTEBOOKS = ROOT / "build" / "notebooks"


def hash_library() -> str:
    """Return a hash of the library's source, on which the results of the notebooks depend."""
    found = hashlib.sha256()
    for path in sorted((ROOT / "src").rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def prepare_notebooks() -> Path:
    """Return the folder of the kept results, and remove those of another version of the library."""
    folder = NOTEBOOKS / hash_library()
    for old in NOTEBOOKS.glob("*"):
        if old != folder:
            shutil.rmtree(old)
    return folder


def build(out: Path) -> int:
    """Build the site into a folder and check every page; returns the exit code."""
    from sphinx.cmd.build import build_main

    sys.path.insert(0, str(DOCS / "extensions"))
    from site_check import list_faults

    # Notebooks find this library, do not ask for the network, and leave no image in the user's own cache.
    paths = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
    os.environ.setdefault("DDIM_CACHE", str(ROOT / "build" / "docs-cache"))
    sys.path.insert(0, str(ROOT / "src"))
    kept = f"nb_execution_cache_path={prepare_notebooks()}"
    doctrees = str(ROOT / "build" / "doctrees")
    options = ["--fail-on-warning", "--keep-going", "--jobs", "auto", "--quiet"]
    code = build_main([*options, "-b", "html", "-d", doctrees, "-D", kept, str(DOCS), str(out)])
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
