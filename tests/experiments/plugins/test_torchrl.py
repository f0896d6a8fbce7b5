"""The example with TorchRL, at a tiny size."""

from __future__ import annotations

from pathlib import Path

import pytest

from rlrep.experiments.plugins import torchrl_dqn


@pytest.mark.parametrize("objective", [pytest.param("none", marks=pytest.mark.slow), "taco"])
def test_it_runs_and_writes_its_losses(objective: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mean_return = torchrl_dqn.main(["--objective", objective, "--steps", "1024", f"--out={tmp_path}"])
    assert -0.13 < mean_return <= 1 and "1024 steps" in capsys.readouterr().out
    assert (tmp_path / f"{objective}-seed_1" / "scalars" / "loss.csv").exists()
