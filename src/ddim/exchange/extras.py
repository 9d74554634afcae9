"""Import the packages of other programs, which are optional extras of this library."""

from importlib import import_module
from typing import Any

from ddim.errors import UserError


def import_extra(package: str, extra: str) -> Any:  # noqa: ANN401 (a module)
    """Return a package of an optional extra.

    Raises:
        UserError: if it is not installed.
    """
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f'{package} is not installed: pip install "ddim[{extra}]" ({error})') from None
