"""The rooms of the house: who may import whom, and what `import rlrep` costs."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = {"rlrep", "agents", "envs", "experiments"}
MAY_IMPORT: dict[str, set[str]] = {
    "rlrep": set(),
    "envs": set(),
    "agents": {"rlrep"},
    "experiments": ROOMS,
}
OPTIONAL = ["gymnasium", "dm_control", "mujoco", "wandb", "stable_baselines3", "hydra", "matplotlib"]


def imported_packages(source: str) -> Iterator[str]:
    """The top-level package of every absolute import, those inside functions included."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0]


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef late():\n    import h\n"
    assert set(imported_packages(source)) == {"a", "c", "d", "h"}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, f"no Python files under {ROOT / room}"
    forbidden = ROOMS - MAY_IMPORT[room] - {room} | {"tests"}
    broken = [
        f"{file.relative_to(ROOT)} imports {package}"
        for file in files
        for package in imported_packages(file.read_text(encoding="utf-8"))
        if package in forbidden
    ]
    assert not broken, "\n".join(broken)


def test_import_rlrep_is_light() -> None:
    program = f"""
import sys, time
import torch, tensordict  # three seconds on a slow machine, and not ours to save
start = time.perf_counter()
import rlrep
seconds = time.perf_counter() - start
print([name for name in {OPTIONAL} if name in sys.modules], seconds)
"""

    def run() -> str:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout

    run()  # compiles what was not yet, and warms the disk cache
    loaded, seconds = run().rsplit(maxsplit=1)
    assert loaded == "[]", f"import rlrep loads {loaded}"
    assert float(seconds) < 1, f"import rlrep takes {seconds} s on top of torch and tensordict"
