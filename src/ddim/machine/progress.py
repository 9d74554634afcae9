"""Progress of long work: the callback that public functions take as `progress`, and its bar in a notebook."""

import base64
import html
import inspect
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from ddim.errors import check_choice

F = TypeVar("F", bound=Callable[..., Any])

Progress = Callable[[str, float, int], None]
"""Called with the name of the counted things, such as "samples", the number done, and the total number.

The number done may be a fraction: it is 2.5 when the third sample is half finished. The name changes when the
next stage of the work begins.
"""

SHOWN = 640
"""Width in pixels to which a sheet of samples is enlarged in a notebook."""


def continue_progress(progress: Progress, before: int, total: int) -> Progress:
    """Return a callback for one part of a longer work, which reports the progress of the whole work.

    Args:
        progress: the callback of the whole work.
        before: the number done before this part.
        total: the total number of the whole work.
    """
    return lambda what, done, _: progress(what, before + done, total)


def ignore_progress(what: str, done: float, total: int) -> None:
    """Show nothing."""


@contextmanager
def open_progress(progress: bool | Progress) -> Generator[Progress]:
    """Yield a progress function for the argument `progress` of a public function.

    A function is yielded unchanged. In a notebook cell, True yields a function that shows a bar, which is
    removed at the end of the block. Otherwise the yielded function shows nothing.
    """
    if callable(progress) or not progress or not in_notebook():
        yield progress if callable(progress) else ignore_progress
        return
    cell, due = Cell(), time.monotonic() + 1  # work of less than a second shows no bar

    def show(what: str, done: float, total: int) -> None:
        nonlocal due
        if time.monotonic() > due:
            due = time.monotonic() + 0.5
            cell.show_bar(f"{what}: {int(done):,} of {total:,}", "", done, total)

    try:
        yield show
    finally:
        cell.clear_bar()


def with_bar(function: F) -> F:
    """Return a function that shows a bar in a notebook cell if its caller gives no `progress`.

    If the function takes options that a TypedDict lists, its signature names them, and others are refused. A
    word that is none of the values of a `Literal` is refused too.

    Args:
        function: a function with an argument `progress`, which is given by name only.
    """
    signature, parameters = inspect.signature(function), list[inspect.Parameter]()
    for each in signature.parameters.values():
        listed = get_args(each.annotation) if each.kind is each.VAR_KEYWORD else ()
        option = each.replace(kind=each.KEYWORD_ONLY, default=None) if listed else each
        fields = listed[0].__annotations__ if listed else {each.name: each.annotation}
        parameters += [option.replace(name=name, annotation=kind) for name, kind in fields.items()]
    bar = {"default": True, "annotation": "bool | Progress"}
    parameters = [each.replace(**bar) if each.name == "progress" else each for each in parameters]
    signature = signature.replace(parameters=parameters)

    @wraps(function)
    def shown(*args: Any, **options: Any) -> Any:  # noqa: ANN401 (those of the function)
        check_words(function, signature.bind(*args, **options).arguments)
        with open_progress(options.get("progress", True)) as progress:
            return function(*args, **{**options, "progress": progress})

    shown.__signature__ = signature  # type: ignore[attr-defined]
    return shown  # type: ignore[return-value]


def check_words(function: Callable[..., object], given: Mapping[str, Any]) -> None:
    """Check the words that are given for those parameters of a function whose type has a `Literal`.

    Raises:
        UserError: if a word is none of the values of the `Literal`.
    """
    with suppress(NameError, AttributeError):  # a type that is imported for type checkers alone
        for name, kind in get_type_hints(function).items():
            choices = [part for part in (kind, *get_args(kind)) if get_origin(part) is Literal]
            if choices and isinstance(given.get(name), str):
                check_choice(name, given[name], get_args(choices[0]))


def in_notebook() -> bool:
    """Return whether this code runs in a Jupyter kernel, which can show HTML."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return getattr(shell, "kernel", None) is not None


class Cell:
    """The outputs of a notebook cell: a bar, and below it a sheet of samples. Both are updated in place."""

    def __init__(self) -> None:
        self._handles: dict[str, Any] = {}

    def show_bar(self, line: str, error: str, done: float, total: int | None) -> None:
        """Show a bar, and below it a line of text and the latest validation error.

        Args:
            line: the first line below the bar.
            error: the second line below the bar; "" for none.
            done: the progress so far.
            total: the progress at the end; None for a bar that only shows activity.
        """
        share = 'style="width:100%"' + (f' value="{done}" max="{total}"' if total else "")
        text = "".join(f"<div>{html.escape(part)}</div>" for part in (line, error) if part)
        self._show("bar", f'<div style="max-width:{SHOWN}px"><progress {share}></progress>{text}</div>', line)

    def show_sheet(self, path: Path, title: str) -> None:
        """Show a PNG file, enlarged without smoothing."""
        content = base64.b64encode(path.read_bytes()).decode()
        style = f"width:{SHOWN}px;max-width:100%;image-rendering:pixelated"
        image = f'<img alt="{title}" style="{style}" src="data:image/png;base64,{content}">'
        self._show("sheet", f"<div>{title}</div>{image}", f"{title}: {path}")

    def clear_bar(self) -> None:
        """Remove the bar from the cell."""
        if "bar" in self._handles:
            self._show("bar", "", "")

    def _show(self, name: str, content: str, plain: str) -> None:
        from IPython.display import display  # type: ignore[import-not-found]

        data = {"text/html": content, "text/plain": plain}
        if name in self._handles:
            self._handles[name].update(data, raw=True)
        else:
            self._handles[name] = display(data, raw=True, display_id=True)
