"""The rooms of the house: who may import whom, and what `import rlrep` costs."""

import ast
import re
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
# The commands. What they stand on are the rooms, the folders in experiments/.
DOORS = {
    "train",
    "offline",
    "pretrain",
    "evaluate",
    "collect",
    "data",
    "plot",
    "offline_report",
    "study",
    "video_theory",
    "benchmark",
}
# What doors and rooms alike write and read files with.
GROUND = {"files", "yaml_files"}
OPTIONAL = ["gymnasium", "dm_control", "mujoco", "wandb", "stable_baselines3", "hydra", "matplotlib"]


Graph = dict[str, set[str]]


def imports(source: str) -> Iterator[tuple[str, list[str]]]:
    """Every absolute import, those inside functions included: a module, and the names that are taken from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, [alias.name for alias in node.names]


def imported_packages(source: str) -> Iterator[str]:
    """The top-level package of every import."""
    yield from (module.split(".")[0] for module, _ in imports(source))


def modules() -> dict[str, str]:
    """The sources of all our modules, by name; a package's name stands for its `__init__.py`."""
    files = [file.relative_to(ROOT) for room in sorted(ROOMS) for file in sorted((ROOT / room).rglob("*.py"))]
    return {
        ".".join(file.with_suffix("").parts).removesuffix(".__init__"): (ROOT / file).read_text(encoding="utf-8")
        for file in files
    }


def import_graph(sources: dict[str, str]) -> Graph:
    """Which of the modules imports which others; `from a import b` is of `a.b` where that is a module."""
    graph: Graph = {name: set() for name in sources}
    for name, source in sources.items():
        for module, taken in imports(source):
            found = {f"{module}.{part}" if f"{module}.{part}" in sources else module for part in taken or [""]}
            graph[name] |= found & sources.keys() - {name}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Modules that reach each other, the groups of more than one."""

    def reached(start: str) -> set[str]:
        seen, left = set(), [start]
        while left:
            new = graph[left.pop()] - seen
            seen |= new
            left += new
        return seen

    reach = {name: reached(name) for name in graph}
    groups = {tuple(sorted(m for m in reach[name] if name in reach[m])) for name in graph}
    return sorted(list(group) for group in groups if len(group) > 1)


def test_imports_are_found_wherever_they_stand() -> None:
    source = "import a.b, c\nfrom d.e import f\nfrom . import g\ndef late():\n    import h\n"
    assert set(imported_packages(source)) == {"a", "c", "d", "h"}


def test_a_circle_is_found_wherever_its_imports_stand() -> None:
    sources = {
        "a": "from b import c",
        "b": "",
        "b.c": "def late():\n    import d",
        "d": "from a import thing\nimport e",
        "e": "import b",
    }
    assert circles(import_graph(sources)) == [["a", "b.c", "d"]]


def test_no_circle_of_files() -> None:
    found = circles(import_graph(modules()))
    assert not found, f"these files import each other, perhaps inside functions: {found}"


def test_the_files_of_experiments_are_its_commands() -> None:
    assert {file.stem for file in (ROOT / "experiments").glob("*.py")} == {*DOORS, *GROUND, "__init__"}


def test_rooms_of_experiments_import_no_door() -> None:
    graph, doors = import_graph(modules()), {f"experiments.{name}" for name in DOORS}
    broken = [
        f"{name} imports {door}"
        for name in graph
        if name.startswith("experiments.") and name.count(".") > 1
        for door in sorted(graph[name] & doors)
    ]
    assert not broken, "\n".join(broken)


def test_what_reads_finished_runs_knows_nothing_of_training() -> None:
    graph = import_graph(modules())
    broken = [
        f"{name} imports {other}"
        for name in graph
        if name.startswith("experiments.results.")
        for other in sorted(graph[name])
        if other not in {f"experiments.{ground}" for ground in GROUND} and not other.startswith("experiments.results")
    ]
    assert not broken, "\n".join(broken)


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


def test_every_missing_extra_is_named_by_a_command_that_works_without_an_index() -> None:
    """The project is on none, so that `pip install rlrep[sb3]` would fail, or install another project."""
    import envs.extras
    import rlrep.extras

    assert envs.extras.install("sb3") == rlrep.extras.install("sb3")
    source = modules()
    words = rlrep.extras.install("train").partition("'.[train]'")
    assert all(part in source["experiments"].replace('"\n            f"', "") for part in words)
    wrong = [name for name, text in source.items() if re.search(r"pip install ['\"\w\\]*rlrep\[", text)]
    assert not [name for name in wrong if not name.startswith("rlrep.data.")]
