"""The single-file agent, at a tiny size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rlrep.experiments.plugins import cleanrl_style

TINY = ["--task=cartpole_balance", "--action-repeat=50", "--image-size=32", "--channels=4", "--batch-size=8"]


def test_it_is_short() -> None:
    assert len(Path(cleanrl_style.__file__).read_text().splitlines()) < 200


@pytest.mark.parametrize("objective", [pytest.param("none", marks=pytest.mark.slow), "taco"])
def test_a_run_writes_returns_and_losses(objective: str, tmp_path: Path) -> None:
    arguments = [*TINY, "--steps=40", "--learning-starts=16", f"--objective={objective}", f"--out={tmp_path}"]
    returns = cleanrl_style.main(arguments)
    assert len(returns) == 2 and all(0 < value < 1000 for value in returns)
    with (tmp_path / "cartpole_balance" / objective / "seed_1" / "train.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["step"] for row in rows] == ["20", "40"]
    assert bool(rows[-1].get("loss_taco")) == (objective == "taco") and float(rows[-1]["critic_loss"]) >= 0


@pytest.mark.slow
def test_weights_and_biases_offline(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    cleanrl_style.main([*TINY, "--steps=40", "--learning-starts=16", f"--out={tmp_path}", "--wandb=offline"])
    assert list(tmp_path.glob("**/offline-run-*/*.wandb"))
