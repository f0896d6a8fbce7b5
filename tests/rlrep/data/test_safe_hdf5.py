"""Writing HDF5: an interrupt in the middle is never lost."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rlrep.data.safe_hdf5 import Output, create_rows, writing


@pytest.mark.parametrize("method", ["write", "seek", "truncate"])
def test_an_interrupt_inside_hdf5_is_raised_and_leaves_no_file(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HDF5 drops exceptions from its callbacks, and would silently write a shorter file."""
    plain, calls = getattr(Output, method), []

    def interrupted(self: Output, *arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 1:
            signal.raise_signal(signal.SIGINT)
        return plain(self, *arguments)

    monkeypatch.setattr(Output, method, interrupted)
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), writing(tmp_path / "data.hdf5") as (file, output):
        for number in range(3):
            create_rows(file, f"rows{number}", np.zeros((50, 8), np.float32), 10)
            output.expect(1000)
    assert calls and not list(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is before
