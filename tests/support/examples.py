"""The examples of the documentation: read from its pages, and run with budgets of seconds.

On a page, blocks of `sh` are typed into a shell and blocks of `python` into one notebook, in their order. A
block of Python with a caption is a file of that name. Blocks of `text` and `console` show output. A page may
be a notebook too, whose cells of code are blocks of Python.
"""

import json
import linecache
import re
import shlex
import tomllib
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from ddim.cli import main

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
FENCE = re.compile(r"^( *)(`{3,})(\S*)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
BUDGETS = {"--minutes": "--images", "--more": "--images"}
"""Budgets of time, and the budget that replaces them."""
DRAWING = ("sample", "vary", "inpaint")
"""Commands that need no least number of samples."""
WHERE = {"RUN": "runs/photos-fast-1", "STUDENT": "runs/photos-fast-distilled-1"}
"""What the placeholders of a page stand for."""


@dataclass(frozen=True)
class Block:
    """A block of code on a page: its language, the file name in its caption or "", its line and its text."""

    language: str
    caption: str
    line: int
    text: str


def list_blocks(page):
    """The blocks of a page in their order."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
        yield from (Block("python", "", k, "".join(cell["source"])) for k, cell in enumerate(cells, 1))
        return
    for found in FENCE.finditer(text):
        indent, _, language, title, body = found.groups()
        if language == "{code-block}":
            language = title.strip()
        options = dict(re.findall(r"^ *:([\w-]+): *(.*)\n", body, re.MULTILINE)) if body[:1] == ":" else {}
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        while lines and (re.match(r":[\w-]+:", lines[0]) or (options and not lines[0])):
            lines.pop(0)
        line = text[: found.start()].count("\n") + 2
        yield Block(language, options.get("caption", ""), line, "\n".join(lines) + "\n")


def list_commands(text):
    """The commands of a block, each as words; a line that ends with a backslash goes on."""
    for line in re.sub(r"\\\n\s*", "", text).splitlines():
        if words := shlex.split(line, comments=True):
            yield words


class Page:
    """Runs the blocks of a page in the present folder."""

    def __init__(self, page, images=32, samples=20):
        self.page, self.images, self.samples = page, str(images), samples
        self.variables, self.space = {}, {"__name__": "__main__"}
        self.ran = 0

    def run(self):
        """Run all blocks, and return how many commands and cells there were."""
        for block in list_blocks(self.page):
            if block.language == "sh":
                for words in list_commands(block.text):
                    self.type(words, block.line)
            elif block.language == "python" and block.caption:
                Path(block.caption).write_text(block.text)
            elif block.language == "python":
                self.execute(block)
        return self.ran

    def execute(self, block):
        """Run a cell as a notebook does, so that the source of its classes can be found."""
        text = re.sub(r"\bminutes=[\d.]+", f"images={self.images}", block.text)
        text = re.sub(r"\bimages=\d[\d_]*", f"images={self.images}", text)
        text = re.sub(r"\bn=(\d+)", lambda found: f"n={min(int(found[1]), self.samples)}", text)
        name = f"<{self.page.name}, line {block.line}>"
        linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
        exec(compile(text, name, "exec"), self.space)
        self.ran += 1

    def type(self, words, line):
        """Run one command of a shell."""
        where = f"{self.page.name}, line {line}: {' '.join(words)}"
        name, captures, command = words[0].partition("=$(")
        if captures:
            with redirect_stdout(StringIO()) as captured:
                self.type([command, *words[1:-1], words[-1].removesuffix(")")], line)
            self.variables[f"${name}"] = captured.getvalue().strip()
            return
        words = [self.variables.get(word, word) for word in words]
        if words[0] == "ddim":
            self.call(words[1:], where)
        elif words[0] == "torchrun":
            from torch.distributed.run import get_args_parser

            known = get_args_parser().parse_args(words[1:])
            assert (known.module, known.training_script) == (True, "ddim"), where
            self.call(known.training_script_args, where)
        elif words[:2] == ["pip", "install"]:
            extras = ",".join(re.findall(r"\[(.*?)\]", " ".join(words)))
            assert not extras or {*extras.split(",")} <= EXTRAS.keys(), where
        elif words[:3] == ["python3", "-m", "venv"]:
            assert len(words) == 4, where
        else:
            assert words[0] in ("./demo", "./check", "."), f"not run: {where}"

    def call(self, words, where):
        """Run a command of ddim in this process; it must succeed."""
        said = StringIO()
        with redirect_stderr(said):
            code = main(self.shrink(words))
        assert code == 0, f"{where}\n{said.getvalue()}"
        self.ran += 1

    def shrink(self, words):
        """Return the words of a command with small budgets; placeholders are replaced."""
        # A run that trains on sees more than before.
        few = {"--images": self.images, "--minutes": self.images, "--more": str(2 * int(self.images))}
        few |= {"--evaluate": str(self.samples), **dict.fromkeys(("--random", "--search", "--repeats"), "1")}
        made = []
        for word in words:
            last = made[-1] if made else ""
            if last in few and words[0] != "plan":
                made[-1] = BUDGETS.get(last, last)
                made.append(few[last])
            elif last == "-n" and word.isdigit():
                made.append(str(min(int(word), 4 if words[0] in DRAWING else self.samples)))
            elif words[0] == "sweep" and any("," in value for value in made):
                # Only the first field keeps all its values.
                made.append(word.split(",")[0])
            else:
                made.append(re.sub(r"^(RUN|STUDENT)\b", lambda found: WHERE[found[1]], word))
        free = {"train": {"--images", "--resume"}, "distill": {"--images"}}
        if words[0] in free and not free[words[0]] & set(made):
            made += ["--images", self.images]
        if words[0] == "plan":
            made.append("--no-compile")
        if words[0] in ("evaluate", "memorisation", "search") and "-n" not in made:
            times = words[0] == "search" and words[1] != "STUDENT" and "--guidance" not in words
            made += [] if times else ["-n", str(self.samples)]
        return made
