"""Makes the documentation: the pages of the project and a reference of its public interface, as HTML.

python -m docs.make [FOLDER]
"""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
OUT = ROOT / "build" / "docs"
# The public interface is `__all__` of these modules.
MODULES = (
    "rlrep",
    "rlrep.agents",
    "rlrep.data",
    "rlrep.data.formats",
    "rlrep.envs",
    "rlrep.integrations.sb3",
    "rlrep.integrations.torchrl",
    "rlrep.objectives",
    "rlrep.pretrain",
    "rlrep.probe",
    "rlrep.replay",
    "rlrep.window",
)
FIRST = "README.md"
PAGES = (FIRST, "experiments/README.md", "experiments/plugins/README.md", "experiments/coming_from.md")
PAGES += tuple(sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("experiments/reports/**/README.md")))
PAGES += tuple(f"experiments/reports/{study}/protocol.md" for study in ("dmc100k", "dmc_exogenous", "dmc_mrq"))
PAGES += ("CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\]\((?!https?://|#)([^)\s#]+)(#[^)\s]*)?\)")


def html_of(page: str) -> str:
    """The path of a page in the output."""
    return "index.html" if page == FIRST else f"{page.removesuffix('.md')}.html"


def public_names(module: ModuleType) -> list[str]:
    """The names that a module's page shows: `__all__`, and for objectives also all classes in the registry."""
    names = list(module.__all__)
    if module.__name__ == "rlrep.objectives":
        ours = [kind for kind in module.OBJECTIVES.values() if kind.__module__.startswith(f"{module.__name__}.")]
        names += [kind.__name__ for kind in ours if kind.__name__ not in names]
    return names


class Written(str):
    """An annotation as it is written in the source, but with full names for our classes."""

    __repr__ = str.__str__


def load() -> dict[str, str]:
    """Imports the public interface, and extends `__all__`, where pdoc finds the names.

    Returns:
        The full name of each public class, by its name.
    """
    places: dict[str, str] = {}
    for name in MODULES:
        module = importlib.import_module(name)
        module.__all__ = public_names(module)  # type: ignore[attr-defined]
        for each in module.__all__:
            value = getattr(module, each)  # rlrep imports a name when it is first used
            if isinstance(value, type):
                places.setdefault(each, f"{name}.{each}")
                constructor = vars(value).get("__init__")
                if inspect.isfunction(constructor) and not constructor.__doc__:
                    constructor.__doc__ = value.__doc__  # without one, pdoc shows what `__new__` takes
    return places


def show_annotations_as_written(places: Mapping[str, str]) -> None:
    """Keeps pdoc from evaluating ``ArrayLike | Tensor`` and ``NonNegative``, whose values have long names."""
    from pdoc import doc, doc_types

    def written(annotation: object, *_: object) -> object:
        if not isinstance(annotation, str):
            return annotation
        return Written(re.sub(r"[\w.]+", lambda name: places.get(name[0], name[0]), annotation))

    doc.safe_eval_type = doc_types.safe_eval_type = written  # type: ignore[assignment]


def render_page(page: str, text: str, titles: Mapping[str, str], folder: Path) -> None:
    """Writes one page, and copies the files that it shows or links to."""
    from pdoc import render, render_helpers

    target = folder / html_of(page)
    target.parent.mkdir(parents=True, exist_ok=True)

    def lead(link: re.Match[str]) -> str:
        path = os.path.normpath(Path(page).parent / link[1])
        if path in titles:
            place = html_of(path)
        elif (ROOT / path).is_file():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / path, folder / path)
            place = path
        else:  # a folder, which a web server may not list
            place = "index.html"
        return f"]({os.path.relpath(folder / place, target.parent)}{link[2] or ''})"

    body = render_helpers.to_html(LINK.sub(lead, text))
    up = os.path.relpath(folder, target.parent) + "/"
    links = {title: up + html_of(each) for each, title in titles.items()}
    links_to_modules = {name: f"{up}{name.replace('.', '/')}.html" for name in MODULES}
    template = render.env.get_template("page.html.jinja2")
    html = template.render(title=titles[page], body=body, toc=body.toc_html, pages=links, modules=links_to_modules)
    target.write_text(html, "utf-8")


def make(folder: Path) -> None:
    """Writes everything into `folder`, which is new or from an earlier call."""
    from pdoc import pdoc, render

    show_annotations_as_written(load())
    render.configure(docformat="google", show_source=False, template_directory=Path(__file__).parent)
    pdoc(*MODULES, r"!rlrep\.data\.record$", output_directory=folder)
    texts = {page: (ROOT / page).read_text("utf-8") for page in PAGES}
    titles = {page: re.search(r"^# (.+)", text, re.MULTILINE)[1] for page, text in texts.items()}  # type: ignore[index]
    for page, text in texts.items():
        render_page(page, text, titles, folder)
    print(f"{folder / 'index.html'}")


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else OUT)
