"""The criteria: what their file must hold, when it was frozen, and which cells are no test of them."""

import re
import subprocess
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rlrep.experiments.video_study import criteria as criteria_module
from rlrep.experiments.video_study import verdicts
from rlrep.experiments.video_study.cells import LockCell
from rlrep.experiments.video_study.criteria import FILE, Criteria, read_criteria


def cell(**changes: Any) -> LockCell:
    return LockCell("oracle", 2, 0, 3, True, 10, **changes)


@pytest.fixture
def frozen(tmp_path: Path) -> Callable[..., Criteria]:
    """Makes changed criteria, in a commit of a separate repository."""

    def git(*words: str) -> None:
        own = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *own, *words], check=True, capture_output=True)

    def make(old: str = "", new: str = "", commit: bool = True) -> Criteria:
        path = tmp_path / "criteria.yaml"
        text = FILE.read_text()
        assert old in text
        path.write_text(text.replace(old, new) if old else text)
        if commit:
            git("init")
            git("add", "criteria.yaml")
            git("commit", "-m", "Freeze")
        read_criteria.cache_clear()
        return read_criteria(path)

    return make


def test_no_number_of_a_verdict_is_left_in_the_code_that_judges() -> None:
    """Except 0 and 1, and the 10 and 100 of percent and "per 10 %", which are units."""
    source = re.sub(r'"""(?s:.*?)"""', "", Path(verdicts.__file__).read_text())
    code = re.sub(r'f?"[^"]*"', "", source)
    assert set(re.findall(r"(?<![\w.])\d+\.?\d*", code)) <= {"0", "1", "0.0", "1.0", "2", "10", "100"}


def test_the_commit_that_froze_the_criteria_is_told_with_its_date_and_the_hash(
    frozen: Callable[..., Criteria],
) -> None:
    criteria = frozen()
    assert criteria.frozen is not None and abs(criteria.frozen - datetime.now(timezone.utc)) < timedelta(minutes=5)
    assert criteria.digest in criteria.source and criteria.commit in criteria.source
    assert f"{criteria.frozen:%Y-%m-%d}" in criteria.source


def test_cells_are_a_test_only_of_criteria_that_were_frozen_before_them(frozen: Callable[..., Criteria]) -> None:
    criteria = frozen()
    assert criteria.frozen is not None
    before, after = ((criteria.frozen + timedelta(seconds=s)).isoformat() for s in (-1, 1))
    assert criteria.exploratory(cell(criteria=criteria.digest, made=after)) == ""
    assert "before the criteria were frozen" in criteria.exploratory(cell(criteria=criteria.digest, made=before))
    assert "other criteria (abc)" in criteria.exploratory(cell(criteria="abc", made=after))
    assert "before cells noted their criteria" in criteria.exploratory(cell())


def test_criteria_that_changed_since_their_commit_are_not_frozen(frozen: Callable[..., Criteria]) -> None:
    digest = frozen().digest
    criteria = frozen("keeps: 0.9", "keeps: 0.8", commit=False)
    assert criteria.keeps == 0.8 and criteria.digest != digest
    assert criteria.frozen is None and "not frozen" in criteria.source
    assert criteria.exploratory(cell(criteria=criteria.digest, made="2030-01-01T00:00:00+00:00"))


def test_without_git_nothing_is_frozen(frozen: Callable[..., Criteria], monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("git")

    monkeypatch.setattr(criteria_module.subprocess, "run", missing)
    assert frozen(commit=False).frozen is None


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("keeps: 0.9\n", "", "keeps is missing"),
        ("keeps: 0.9", "keep: 0.9\nkeeps: 0.9", "unknown entry 'keep': did you mean keeps"),
        ("dominates: 0.2", "dominates: a lot", "P3.dominates is 'a lot', expected a finite number"),
        ("first: temporal_contrastive", "first: temporal", "unknown method 'temporal'"),
        ("seeds: 5", "seeds: 1", "seeds must be at least 2"),
        ("level: 0.025", "level: 2.5", "level must lie between 0 and 1"),
        ("  gridworld: oracle\n", "", "ceiling.gridworld is missing"),
        (
            "forward_ahead: [0.15, 1.0]",
            "forward_ahead: [0.1, 1.0]",
            "[0.1, 1.0] is no [size, persistence] of the diagram",
        ),
        ("updates: [1000, 3000]", "updates: [1000, 2000]", "no training is measured after 2000 updates"),
        ("seeds: 3", "seeds: 1", "seeds must be at least 2"),
        ("[0.15, 0.3, 0.45]", "[0.3, 0.15]", "a sweep needs at least two numbers in their order"),
    ],
)
def test_a_file_that_can_not_judge_is_refused(frozen: Callable[..., Criteria], old: str, new: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        frozen(old, new, commit=False)
