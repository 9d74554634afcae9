"""Make the lists in --help from the source of the registries.

The registries are not imported, because this would import torch.
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent


def read_registry(module: str, registry: str) -> dict[str, str]:
    """Return the first lines of the docstrings in a registry, without importing its module.

    The registry is a dictionary literal in the source of the module; its values are classes or functions.

    Args:
        module: the module's name within the package, such as "diffusion.samplers".
        registry: the dictionary's name, such as "SAMPLERS".

    Returns:
        The first line of the docstring of each value, without the full stop, keyed as in the registry.
    """
    tree = _parse(module)
    entries = _find_dictionary(tree, registry)
    return {
        ast.literal_eval(key): _first_line(tree, value.id)
        for key, value in zip(entries.keys, entries.values, strict=True)
        if key is not None and isinstance(value, ast.Name)
    }


def _find_dictionary(tree: ast.Module, name: str) -> ast.Dict:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == name for target in targets):
                return node.value
    raise LookupError(f"no dictionary {name} in the source")


def _parse(module: str) -> ast.Module:
    path = ROOT / module.replace(".", "/")
    path = file if (file := path.with_suffix(".py")).exists() else path / "__init__.py"
    return ast.parse(path.read_text(encoding="utf-8"))


def _find_definition(tree: ast.Module, name: str) -> tuple[ast.Module, ast.ClassDef | ast.FunctionDef] | None:
    """Find the definition of a class or function that a module defines or imports.

    The first returned value is the module that contains the definition. The second value is the definition.
    Without a definition, the result is None.
    """
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return tree, node
        if isinstance(node, ast.ImportFrom) and (home := node.module or "").startswith("ddim."):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _find_definition(_parse(home.removeprefix("ddim.")), alias.name)
    return None


def _first_line(tree: ast.Module, name: str) -> str:
    """Return the first line of the docstring of a class or function that a module defines or imports."""
    found = _find_definition(tree, name)
    return (ast.get_docstring(found[1]) or "").partition("\n")[0].removesuffix(".") if found else ""


def _list_class_fields(tree: ast.Module, name: str) -> list[str]:
    """Return the names of the fields of a dataclass that a module defines or imports, base classes first."""
    home, node = _find_definition(tree, name) or (tree, None)
    if not isinstance(node, ast.ClassDef):
        return []
    names = [
        name
        for base in node.bases
        if isinstance(base, ast.Name)
        for name in _list_class_fields(home, base.id)
    ]
    targets = (item.target for item in node.body if isinstance(item, ast.AnnAssign))
    return [*names, *(target.id for target in targets if isinstance(target, ast.Name))]


def list_kinds(module: str, registry: str) -> str:
    """Return the entries of a registry as lines for the end of a help text, one line each."""
    entries = read_registry(module, registry)
    width = max(map(len, entries))
    return "\n".join(f"  {name:<{width}}  {text}" for name, text in entries.items())


def list_kind_fields(module: str, registry: str) -> str:
    """Return the fields of each dataclass in a registry as lines for the end of a help text."""
    tree = _parse(module)
    entries = _find_dictionary(tree, registry)
    pairs = [
        (ast.literal_eval(key), ", ".join(_list_class_fields(tree, value.id)))
        for key, value in zip(entries.keys, entries.values, strict=True)
        if key is not None and isinstance(value, ast.Name)
    ]
    width = max(len(name) for name, _ in pairs)
    return "\n".join(f"  {name:<{width}}  {fields}" for name, fields in pairs)
