"""`domain/` is pure: no clock, no chance, no environment, no input or output, no floating point."""

import ast
from pathlib import Path

import pytest

import domain

HOME = Path(domain.__file__).parent
SOURCES = sorted(HOME.rglob("*.py"))
ALLOWED_MODULES = {
    *("abc", "collections", "copy", "datetime", "decimal", "enum", "functools", "itertools", "typing", "__future__"),
    *("msgspec", "domain"),
}
ALLOWED_HERE = {"calendar.py": {"importlib"}}
"""`load_nse` reads the packaged calendar once."""
NEVER = {
    "now",
    "utcnow",
    "today",
    "time_ns",
    "monotonic",
    "uuid4",
    "getenv",
    "environ",
    "open",
    "input",
    "print",
    "float",
}
"""Names of calls and attributes that would bring in time, chance, the environment, I/O or inexact numbers."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_domain_imports_only_what_is_pure(source: Path) -> None:
    allowed = ALLOWED_MODULES | ALLOWED_HERE.get(source.name, set())
    for node in ast.walk(ast.parse(source.read_text())):
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            modules = [node.module or ""]
        for module in modules:
            assert module.split(".")[0] in allowed, f"{source.name}:{node.lineno} imports {module}"


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.name)
def test_domain_calls_no_clock_no_chance_no_io_and_no_float(source: Path) -> None:
    for node in ast.walk(ast.parse(source.read_text())):
        if isinstance(node, ast.Constant):
            assert not isinstance(node.value, float), f"{source.name}:{node.lineno} has a float {node.value}"
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert name not in NEVER, f"{source.name}:{node.lineno} calls {name}"
        if isinstance(node, ast.Name):
            assert node.id != "float", f"{source.name}:{node.lineno} speaks of float"
