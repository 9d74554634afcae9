"""The page of the tests that the theory names, each with its source."""

from __future__ import annotations

import ast
import re
from pathlib import Path

DOCS = Path(__file__).parents[1]
TESTS = DOCS.parent / "tests"
LINK = re.compile(r"tested\.md#([\w-]+)")


def write_tested() -> str:
    """Return the page. A test that does not exist has no heading, so that the link to it fails the build."""
    wanted = dict.fromkeys(LINK.findall((DOCS / "theory.md").read_text(encoding="utf-8")))
    homes = find_tests()
    parts = [
        "---\norphan: true\n---",
        "# Tests of the theory",
        "The tests that the [theory](theory.md) names, as they run in every check of the project. "
        "An *oracle* is an exact denoiser, for images whose distribution is known.",
    ]
    for slug in wanted:
        if slug in homes:
            path, name = homes[slug]
            where = f"../{path.relative_to(DOCS.parent)}"
            parts.append(f"({slug})=\n## {slug.replace('-', ' ').capitalize()}\n\nIn `{where[3:]}`:")
            parts.append(f"```{{literalinclude}} {where}\n:pyobject: {name}\n```")
    return "\n\n".join(parts) + "\n"


def find_tests() -> dict[str, tuple[Path, str]]:
    """Return the file and the name of each test function, keyed by its name in words joined with hyphens."""
    found = {}
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name.removeprefix("test_").replace("_", "-")] = path, node.name
    return found
