"""Damaged and hostile files give clear errors or their original data: no crash, no hang, no flood of memory, and no
silent changes.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests import fuzz


@pytest.mark.parametrize("seed", [0])
def test_damaged_files_are_refused(seed: int) -> None:
    """A few of each kind; `make fuzz` reads thousands."""
    results = list(fuzz.run(fuzz.KINDS, seed, 6 * len(fuzz.KINDS), jobs=1))
    assert Counter(one.kind for one in results) == dict.fromkeys(fuzz.KINDS, 6)
    assert not list(filter(fuzz.wrong, results)), fuzz.table(results)
    assert sum(one.outcome == "refused" for one in results) > len(results) / 4, fuzz.table(results)


def test_which_outcomes_are_failures() -> None:
    """For files with checksums, and without."""
    assert [name for name in fuzz.OUTCOMES if fuzz.wrong(fuzz.Result("npz", 0, "", name, ""))] == [
        "changed",
        "traceback",
        "crash",
        "hang",
        "memory",
    ]
    assert not fuzz.wrong(fuzz.Result("mp4", 0, "", "changed", ""))
