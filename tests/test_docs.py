"""The reference that `make docs` makes: all it shows is documented, and its links are valid."""

import ast
import dataclasses
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from docs import make

pdoc = pytest.importorskip("pdoc")


def section(docstring: str, *names: str) -> str:
    """The text of a Google-style docstring under the given headings."""
    found = re.findall(rf"^(?:{'|'.join(names)}):\n((?:(?:[ \t].*)?(?:\n|$))*)", docstring, re.MULTILINE)
    return "\n".join(found)


def entries(docstring: str, *names: str) -> set[str]:
    """The names that are explained under the given headings; a line may explain several."""
    lines = re.findall(r"^    (\S[^:\n]*):", section(docstring, *names), re.MULTILINE)
    return {name.strip().lstrip("*") for line in lines for name in line.split(",")}


def raised(function: Any) -> set[str]:
    """The exceptions that a function raises itself."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    calls = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None]
    return {call.func.id for call in calls if isinstance(call, ast.Call) and getattr(call.func, "id", "_")[0].isupper()}


def parameters(function: Any) -> list[str]:
    return [name for name in inspect.signature(function).parameters if name != "self"]


def public() -> Iterator[tuple[str, Any]]:
    make.load()
    for module in map(importlib.import_module, make.MODULES):
        for name in make.public_names(module):
            yield f"{module.__name__}.{name}", getattr(module, name)


def lacks(name: str, value: Any) -> Iterator[str]:
    """What is missing from the docstring of a public class or function."""
    docstring = inspect.cleandoc(value.__doc__ or "")
    if not docstring:
        yield f"{name} has no docstring"
    is_class = isinstance(value, type)
    named = entries(docstring, "Args", "Attributes")
    takes = [] if is_class and issubclass(value, Exception) else parameters(value)
    yield from (f"{name} does not explain {each}" for each in takes if each not in named)
    if not is_class:
        yield from (f"{name} does not explain {each}" for each in named - set(takes))
    maker = "__post_init__" if dataclasses.is_dataclass(value) else "__init__"  # a generated __init__ has no source
    body = vars(value).get(maker) if is_class and not issubclass(value, tuple) else None if is_class else value
    for each in raised(inspect.unwrap(body)) if body else ():
        if each not in section(docstring, "Raises"):
            yield f"{name} raises {each}, and does not say when"


def undocumented(name: str, kind: type) -> Iterator[str]:
    """The public methods and properties of a class without a docstring of ours."""
    for each, value in vars(kind).items():
        function = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
        if each.startswith("_") or not inspect.isfunction(function):
            continue
        inherited = [
            vars(base)[each] for base in kind.__mro__ if base.__module__.startswith("rlrep") and each in vars(base)
        ]
        if not any(one.__doc__ for one in inherited):
            yield f"{name}.{each} has no docstring"


def test_every_public_name_says_what_it_takes_and_raises() -> None:
    found = list(public())
    assert len(found) > 60
    wrong = [line for name, value in found if callable(value) for line in lacks(name, value)]
    wrong += [line for name, value in found if isinstance(value, type) for line in undocumented(name, value)]
    assert wrong == []


def test_every_public_value_says_what_it_is() -> None:
    wrong = [
        f"{module.fullname}.{value.name}"
        for module in map(pdoc.doc.Module.from_name, make.MODULES)
        for value in module.variables
        if re.search(rf"^{value.name}\b.* = ", module.source, re.MULTILINE) and not value.docstring
    ]
    assert wrong == []


def test_a_constructor_takes_what_its_class_explains() -> None:
    make.load()
    shown = pdoc.doc.Module.from_name("rlrep").get("PixelEncoder.__init__")
    assert "observation_shape" in shown.signature.parameters  # not the arguments of the Hub's `__new__`


def dangling(folder: Path) -> list[str]:
    """The links in HTML files to missing files or missing anchors."""
    texts = {path: path.read_text("utf-8") for path in sorted(folder.rglob("*.html"))}
    places = {path: set(re.findall(r'\bid="([^"]+)"', text)) for path, text in texts.items()}
    found = []
    for path, text in texts.items():
        for link in re.findall(r'(?:href|src)="(?!https?:|data:)([^"$]+)"', text):
            name, _, anchor = link.partition("#")
            target = (path.parent / name).resolve() if name else path
            if not target.exists() or (anchor and target in places and anchor not in places[target]):
                found.append(f"{path.relative_to(folder)}: {link}")
    return found


def test_pages_and_reference_link_to_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make, "MODULES", ("rlrep.window",))
    monkeypatch.setattr(make, "PAGES", ("README.md", "experiments/plugins/README.md"))
    make.make(tmp_path)
    assert dangling(tmp_path) == []
    first = (tmp_path / "index.html").read_text("utf-8")
    assert '/rlrep/window.html"' in first and '/experiments/plugins/README.html"' in first
    assert (tmp_path / "experiments/reports/theory/phase/phase_gridworld.png").exists()  # a picture on it
    reference = (tmp_path / "rlrep" / "window.html").read_text("utf-8")
    assert 'href="#Window.join"' in reference and 'href="../index.html"' in reference


@pytest.mark.slow
def test_everything_is_made_without_a_link_that_leads_nowhere(tmp_path: Path) -> None:
    make.make(tmp_path)
    assert dangling(tmp_path) == []
    reference = (tmp_path / "rlrep" / "objectives.html").read_text("utf-8")
    assert "class=" in reference and 'id="SPR"' in reference  # in the registry, but not in `__all__`
    assert "Initialize internal Module state" not in reference  # from torch
