"""The rooms of the house: who may import whom, and what `import rlrep` costs."""

import ast
import resource
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


def processor_seconds() -> float:
    """What this process's finished children have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_import_rlrep_is_light() -> None:
    program = f"import sys, rlrep; print([name for name in {OPTIONAL} if name in sys.modules])"
    seconds = []
    for _ in range(3):  # the first compiles what was not yet
        start = processor_seconds()  # the clock would count what other processes on the machine take
        out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        seconds.append(processor_seconds() - start)
        assert out.stdout.strip() == "[]", f"import rlrep loads {out.stdout}"
    assert min(seconds) < 3, f"import rlrep takes {seconds} s, Python's own start included"
