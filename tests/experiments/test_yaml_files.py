"""Configurations of other people's runs are read as plain values, in bounded time, without environment variables."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from rlrep.experiments.results.runs import RunError, read_config
from rlrep.experiments.run.offline_config import load as load_offline
from rlrep.experiments.run.options import ConfigError
from rlrep.experiments.run.train_config import load
from rlrep.experiments.yaml_files import UnusableYaml, read_yaml, value_of

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join([f'*{chr(97 + i)}'] * 9)}]\n" for i in range(9)
)
HARMFUL = {
    "nested aliases": BOMB,
    "one alias": "a: &a 1\nb: *a\n",
    "deep": "a: " + "[" * 20_000,
    "deep blocks": "\n".join("  " * i + "a:" for i in range(60)),
    "environment": "task: ${oc.env:HOME}\n",
    "environment by default": "task: ${oc.env:NOTHING,${oc.env:HOME}}\n",
    "resolver within text": "task: a${oc.env:HOME}b\n",
    "resolver in a key": "${oc.env:HOME}: 1\n",
    "escaped": "task: \\${oc.env:HOME}\n",
    "interpolation of an interpolation": "a: ${b}\nb: ${c}\nc: 1\n",
    "grows": "a: ${b}${b}\nb: x\n",
    "a mapping twice": "a: ${b}\nb: {c: 1}\n",
    "itself": "a: ${a}\n",
    "nothing": "a: ${b.c}\n",
    "python": "a: !!python/object/apply:os.system ['true']\n",
    "many digits": f"a: {'9' * 10_000}\n",
    "a list": "[1, 2]\n",
    "large": "a: 1\n" + "#" * (1 << 17),
    "keys twice": "a: 1\na: 2\n",
    "not text": "\x00",
    "a null byte": 'run_dir: "a\\0b"\n',
    "a null byte in a name": '"a\\0b": 1\n',
}


@pytest.mark.parametrize("text", HARMFUL.values(), ids=HARMFUL.keys())
def test_a_harmful_configuration_is_refused_at_once(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(UnusableYaml):
        read_yaml(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
        load(tmp_path / "config.yaml")
    with pytest.raises(ConfigError, match=r"config\.yaml is damaged"):
        load_offline(tmp_path / "config.yaml")
    if "${" in text:  # reading finished runs does not resolve interpolations
        assert "${" in str(read_config(tmp_path))
    else:
        with pytest.raises(RunError, match=r"cannot read config\.yaml"):
            read_config(tmp_path)
    assert time.perf_counter() - start < 20


def test_the_values_of_a_files_own_keys_are_known(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "task: walker\nagent: {name: '${task}', lr: 1e-4}\nsizes: [1, '${agent.lr}']\n"
    )
    config = read_yaml(tmp_path / "config.yaml")
    assert config == {"task": "walker", "agent": {"name": "walker", "lr": 1e-4}, "sizes": [1, 1e-4]}


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.yaml")
    with pytest.raises(RunError, match="not a regular file"):
        read_config(tmp_path)
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "config.yaml")
    (tmp_path / "config.yaml").unlink()
    (tmp_path / "config.yaml").symlink_to("/dev/zero")
    with pytest.raises(ConfigError, match="not a regular file"):
        load(tmp_path / "config.yaml")


def test_a_dotted_key_is_looked_up_in_mappings_and_dataclasses() -> None:
    @dataclass
    class Section:
        size: int | None

    config = {"agent": {"name": "taco", "lr": None}, "noise": Section(4)}
    assert [value_of(config, key) for key in ("agent.name", "noise.size", "agent.name.title", "seed")] == [
        "taco",
        4,
        None,
        None,
    ]
    assert (value_of(config, "agent.lr", 1), value_of(config, "agent.seed", 1)) == (None, 1)
