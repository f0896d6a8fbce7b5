"""What `pip install .` installs, and where."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NAMES = ("agents", "envs", "experiments")
PROGRAM = """
import agents, envs, experiments
import rlrep, rlrep.agents, rlrep.envs
from rlrep import TACO
print(agents.OWN, envs.OWN, experiments.OWN)
print(rlrep.PixelEncoder.from_pretrained("rlrep://gridworld_exogenous").repr_dim)
print(rlrep.__file__, rlrep.agents.__file__, rlrep.envs.__file__)
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with nothing but the package, installed from a wheel."""
    folder = tmp_path_factory.mktemp("package")
    for name in ("rlrep", *NAMES):
        left_out = shutil.ignore_patterns("__pycache__", "*.png", "*.csv", "cells", "*.mp4")
        shutil.copytree(ROOT / name, folder / "tree" / name, symlinks=True, ignore=left_out)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder / "tree")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(folder / "tree")]
    subprocess.run(build, check=True)
    (wheel,) = folder.glob("*.whl")
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", str(folder / "site"), str(wheel)], check=True)
    return folder / "site"


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in a folder."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_clone_is_found_beside_a_folder_of_its_name(tmp_path: Path) -> None:
    """As in the folder above the clone."""
    (tmp_path / "rlrep").mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [sys.executable, "-c", "from rlrep import TACO; import rlrep.experiments"]
    done = subprocess.run(program, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stderr}make setup installs rlrep so that this works"


def test_one_package_is_installed(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names == {"rlrep"}
    sources = [path for folder in ("rlrep", *NAMES) for path in sorted((ROOT / folder).rglob("*.py"))]
    expected = {path.relative_to(ROOT).as_posix() for path in sources}
    found = {path.relative_to(installed / "rlrep").as_posix() for path in installed.rglob("*.py")}
    assert found == {path.removeprefix("rlrep/") for path in expected}


def test_it_works_beside_folders_of_the_same_names(installed: Path, tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("OWN = 1\n")
    done = run(installed, tmp_path, "-c", PROGRAM)
    assert done.returncode == 0, done.stderr
    own, of_encoder, ours = done.stdout.splitlines()
    assert own == "1 1 1" and of_encoder == "128"
    expected = ["rlrep/__init__.py", "rlrep/agents/__init__.py", "rlrep/envs/__init__.py"]
    assert ours.split() == [str(installed / path) for path in expected]


@pytest.mark.parametrize("command", ["study", "video_theory"])
def test_the_commands_find_their_files(installed: Path, tmp_path: Path, command: str) -> None:
    done = run(installed, tmp_path, "-m", f"rlrep.experiments.{command}", "--help")
    assert done.returncode == 0 and f"rlrep.experiments.{command}" in done.stdout, done.stderr


def test_an_installed_command_trains(installed: Path, tmp_path: Path) -> None:
    words = "preset=cpu agent=drqv2 task=cartpole_swingup num_train_frames=800 num_seed_frames=400 batch_size=4"
    words += " num_eval_episodes=1 eval_every_frames=800 image_size=24 save_video=false"
    done = run(installed, tmp_path, "-m", "rlrep.experiments.train", *words.split())
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "runs" / "cartpole_swingup" / "drqv2" / "seed_1" / "eval.csv").exists()
