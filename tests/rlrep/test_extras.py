"""The command that installs an extra, for each way in which the project was installed."""

import json
import shlex
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from rlrep import extras

ROOT = Path(__file__).resolve().parents[2]


class Installed:
    """Replaces a distribution of `importlib.metadata`."""

    def __init__(self, noted: dict[str, object] | None) -> None:
        self.noted = noted

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.noted is None else json.dumps(self.noted)


def requirement(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, noted: dict[str, object] | None) -> str:
    """The requirement for pip if the package is not in a clone; `noted` is pip's record of its origin."""
    monkeypatch.setattr(extras, "__file__", str(tmp_path / "rlrep" / "extras.py"))
    monkeypatch.setattr(extras, "distribution", lambda name: Installed(noted))
    command = extras.install("sb3").split("`")[1]
    *words, found = shlex.split(command)
    assert words == ["pip", "install"]
    return found


def test_of_a_clone() -> None:
    assert extras.install("sb3") == f"run `pip install -e {shlex.quote(f'{ROOT}[sb3]')}`"


def test_of_a_folder_that_was_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = {"url": "file:///home/me/my%20code/rlrep", "dir_info": {}}
    assert requirement(monkeypatch, tmp_path, noted) == "/home/me/my code/rlrep[sb3]"


def test_of_a_repository(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = {"url": "https://host/rlrep.git", "vcs_info": {"vcs": "git", "commit_id": "0123"}}
    assert requirement(monkeypatch, tmp_path, noted) == "rlrep[sb3] @ git+https://host/rlrep.git@0123"


def test_of_a_wheel(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    noted = {"url": "file:///tmp/rlrep-0.1.0-py3-none-any.whl", "archive_info": {}}
    assert requirement(monkeypatch, tmp_path, noted) == "rlrep[sb3] @ file:///tmp/rlrep-0.1.0-py3-none-any.whl"


def test_of_an_index(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert requirement(monkeypatch, tmp_path, None) == "rlrep[sb3]"


def test_of_a_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(name: str) -> Installed:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "__file__", str(tmp_path / "rlrep" / "extras.py"))
    monkeypatch.setattr(extras, "distribution", missing)
    assert extras.install("sb3") == "run `pip install 'rlrep[sb3]'`"
