"""Damaged files give clear errors or the data they held: no crash, no hang, and no other data where checksums are."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from tests.rlrep.data.damage import CHECKSUMMED, KINDS

HERE = Path(__file__).parent


def read_damaged(kind: str, count: int, folder: Path, timeout: float) -> Counter[str]:
    """How often reading came to which end."""
    folder.mkdir(parents=True)
    found = subprocess.run(
        [sys.executable, str(HERE / "damage.py"), kind, "0", str(count), str(folder)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env=os.environ | {"PYTHONPATH": str(HERE.parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, f"{found.stdout[-200:]}\n{found.stderr[-2000:]}"
    ends = Counter(line.split(" ", 2)[2] for line in found.stdout.splitlines() if not line.endswith(" begins"))
    assert ends.total() == count
    return ends


def check(kind: str, ends: Counter[str]) -> None:
    # A pixel that was flipped in a file without checksums is as good as another.
    allowed = {"error", "equal"} | ({"different"} if kind not in CHECKSUMMED else set())
    assert ends.keys() <= allowed, (kind, ends)
    assert ends["error"] > ends.total() / 4, (kind, ends)


@pytest.mark.parametrize("kind", ["vd4rl_64", "vd4rl_84", "rlrep"])
def test_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    check(kind, read_damaged(kind, 20, tmp_path / "files", 60))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_damaged_files_are_refused(kind: str, tmp_path: Path) -> None:
    """400 of each of six kinds."""
    ends = read_damaged(kind, 400, tmp_path / "files", 280)
    print(kind, dict(ends))
    check(kind, ends)
