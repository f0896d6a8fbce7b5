"""What the README shows can be typed."""

import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAMES = ("README.md", "CONTRIBUTING.md", "experiments/README.md", "experiments/plugins/README.md")
PAGES = [ROOT / name for name in NAMES]
PAGES += sorted((ROOT / "experiments" / "reports").glob("*/*.md"))


def blocks(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def test_a_loop_of_ones_own_runs() -> None:
    (loop,) = [block for block in blocks(ROOT / "README.md") if "ReplayBuffer(" in block]
    short = loop.replace("range(1_000)", "range(12)").replace("256", "8")
    assert short.count("8") >= 2 and "range(12)" in short
    found: dict[str, object] = {}
    exec(compile(short, "README.md", "exec"), found)
    assert len(found["replay"]) == 12  # type: ignore[arg-type]
    assert found["loss"].item() > 0  # type: ignore[attr-defined]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, _ = target.partition("#")
        if path and not target.startswith(("http://", "https://")):
            assert os.path.exists(page.parent / path), f"{page.name} links to {target}"
