"""The packages and rooms: which may import which, and what `import rlrep` costs."""

import ast
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Folders beside rlrep, to which rlrep/ links: they are rlrep.agents, rlrep.envs and rlrep.experiments.
LINKED = ("agents", "envs", "experiments")
ROOMS = {"rlrep", *(f"rlrep.{name}" for name in LINKED)}
# Modules of the library that environments may import: they need no PyTorch, so environment processes do not load it.
LIGHT = {"rlrep.arguments", "rlrep.bounds", "rlrep.channels", "rlrep.extras", "rlrep.registry"}
MAY_IMPORT: dict[str, set[str]] = {
    "rlrep": set(),
    "rlrep.envs": LIGHT,
    "rlrep.agents": {"rlrep"},
    "rlrep.experiments": ROOMS,
}
# The commands. The rooms, which are the folders in experiments/, do their work.
DOORS = {
    "train",
    "offline",
    "pretrain",
    "evaluate",
    "encoders",
    "collect",
    "data",
    "plot",
    "offline_report",
    "study",
    "video_theory",
    "benchmark",
}
# Modules for reading and writing files, which doors and rooms may import.
GROUND = {"files", "yaml_files"}
OPTIONAL = ["torch", "gymnasium", "dm_control", "mujoco", "wandb", "stable_baselines3", "hydra", "matplotlib"]


Graph = dict[str, set[str]]


def imports(source: str) -> Iterator[tuple[str, list[str]]]:
    """Every absolute import, including those inside functions: a module, and the names that are imported from it."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, [alias.name for alias in node.names]


def modules() -> dict[str, str]:
    """The sources of all our modules, by name; the name of a package means its `__init__.py`."""
    folders = [ROOT / "rlrep", *(ROOT / "rlrep" / name for name in LINKED)]
    files = [file for folder in folders for file in sorted(folder.rglob("*.py"))]
    return {
        ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file.read_text("utf-8")
        for file in files
    }


def room_of(module: str) -> str:
    """The room of a module; for a foreign module, its top-level package."""
    return max((room for room in ROOMS if f"{module}.".startswith(f"{room}.")), default=module.split(".")[0], key=len)


def import_graph(sources: dict[str, str]) -> Graph:
    """Which modules import which others; `from a import b` counts as `a.b` if that is a module."""
    graph: Graph = {name: set() for name in sources}
    for name, source in sources.items():
        for module, taken in imports(source):
            found = {f"{module}.{part}" if f"{module}.{part}" in sources else module for part in taken or [""]}
            graph[name] |= found & sources.keys() - {name}
    return graph


def circles(graph: Graph) -> list[list[str]]:
    """Groups of two or more modules that import each other, directly or indirectly."""

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
    assert {module for module, _ in imports(source)} == {"a.b", "c", "d.e", "h"}


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
    graph, doors = import_graph(modules()), {f"rlrep.experiments.{name}" for name in DOORS}
    broken = [
        f"{name} imports {door}"
        for name in graph
        if name.startswith("rlrep.experiments.") and name.count(".") > 2
        for door in sorted(graph[name] & doors)
    ]
    assert not broken, "\n".join(broken)


def test_what_reads_finished_runs_knows_nothing_of_training() -> None:
    graph = import_graph(modules())
    broken = [
        f"{name} imports {other}"
        for name in graph
        if name.startswith("rlrep.experiments.results.")
        for other in sorted(graph[name])
        if other not in {f"rlrep.experiments.{ground}" for ground in GROUND}
        and not other.startswith("rlrep.experiments.results")
    ]
    assert not broken, "\n".join(broken)


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    sources = modules()
    files = {name: source for name, source in sources.items() if room_of(name) == room}
    assert files, f"no modules in {room}"
    broken = [
        f"{name} imports {module}"
        for name, source in files.items()
        for module, taken in imports(source)
        for found in ({f"{module}.{part}" for part in taken} & sources.keys() or {module})
        if room_of(found) in {*ROOMS, "tests", *LINKED} - {room} - MAY_IMPORT[room] and found not in MAY_IMPORT[room]
    ]
    assert not broken, "\n".join(broken)


def test_every_module_has_one_name() -> None:
    """So that users' own folders may have the same names as ours."""
    assert all((ROOT / "rlrep" / name).samefile(ROOT / name) for name in LINKED)
    sources = {str(file): file.read_text("utf-8") for file in sorted((ROOT / "tests").rglob("*.py"))} | modules()
    broken = [
        f"{name} imports {module}"
        for name, source in sources.items()
        for module, _ in imports(source)
        if module.split(".")[0] in LINKED
    ]
    assert not broken, "\n".join(broken)


def processor_seconds() -> float:
    """The processor time of this process's finished children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_import_rlrep_is_light() -> None:
    program = f"import sys, rlrep; print([name for name in {OPTIONAL} if name in sys.modules])"
    seconds = []
    for _ in range(2):  # the first one compiles the sources if necessary
        start = processor_seconds()  # wall-clock time would depend on other processes
        out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
        seconds.append(processor_seconds() - start)
        assert out.stdout.strip() == "[]", f"import rlrep loads {out.stdout}"
    assert min(seconds) < 3, f"import rlrep takes {seconds} s, Python's own start included"


def test_environments_load_neither_pytorch_nor_a_simulator() -> None:
    """PyTorch would cost each of their processes 250 MB and a few seconds."""
    heavy = ("torch", "tensordict", "hydra", "matplotlib", "mujoco", "dm_control", "OpenGL")
    program = f"import sys, rlrep.envs; print([name for name in {heavy} if name in sys.modules])"
    out = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    assert out.stdout.strip() == "[]", f"import rlrep.envs loads {out.stdout}"


def test_only_one_module_knows_the_pip_command_of_an_extra() -> None:
    """The project is not on PyPI, so `pip install rlrep[sb3]` would fail, or install a different project."""
    source = modules()
    wrong = [name for name, text in source.items() if re.search(r"pip install [-\w'\"\\ ]*(\.|rlrep)\[", text)]
    assert not wrong
