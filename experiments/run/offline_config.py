"""The configuration of a run on offline data: read from conf/offline/, completed by the data, and checked."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rlrep.data.formats import FORMATS
from rlrep.envs import task_name
from rlrep.experiments.results.runs import telling_part
from rlrep.experiments.run.checkpoint import CONFIG
from rlrep.experiments.run.config import RunConfig, settle
from rlrep.experiments.run.config_file import explanation, load_as, register, typed_as
from rlrep.experiments.run.names import as_folder, import_modules, located
from rlrep.experiments.run.options import ConfigError, defaults, option
from rlrep.experiments.run.sections import FilesConfig
from rlrep.experiments.run.train_config import TrainConfig
from rlrep.experiments.yaml_files import UnusableYaml, read_yaml, value_of

if TYPE_CHECKING:
    from rlrep.data import Provenance

# Values that the data give if the configuration does not.
FROM_DATA = ("task", "image_size", "action_repeat", "camera", "run_dir")
USUAL_ACTION_REPEAT = 2  # V-D4RL's value, which its files do not state


@dataclass
class OfflineConfig(FilesConfig, RunConfig):
    """Every option of a run on offline data; checked on construction. null takes the data's value.

    `data` is the data set's description: its level, the returns of the random policy and of its expert, and the
    fingerprint of its content.
    """

    dataset: str = option(
        MISSING, "a file or folder of any format that `rlrep.experiments.data info` knows", path=True, free=True
    )
    task: str = option(None, "that the agent is evaluated on")
    action_repeat: int = option(None, "simulator steps per action", above=0)
    image_size: int = option(None, "height and width of a frame in pixels", above=0)
    replay_storage: str = option(
        "auto", "memory, disk, cuda; auto is the GPU if the frames fill less than half of it, else disk", free=True
    )
    run_dir: str = option(None, "folder of the run; null is runs/offline/TASK_LEVEL/AGENT/seed_N", path=True, free=True)
    stddev_schedule: str = option(
        "linear(1.0,0.1,125000)",  # V-D4RL's schedule takes 250,000 steps, with an update at every second step
        "standard deviation of the actor's noise, in updates",
        referenced=True,
    )
    num_updates: int = option(100_000, "length of the run", above=0, free=True)
    log_every_updates: int = option(500, "updates between rows of train.csv", above=0)
    eval_every_updates: int = option(5000, "updates between evaluations", above=0, free=True)
    checkpoint_every_updates: int = option(5000, "updates between checkpoints", above=0)
    data: dict[str, Any] = option({}, "", free=True)

    @classmethod
    def idle(cls, plain: Mapping[str, Any]) -> dict[str, str]:
        found = super().idle(plain)
        online = ["num_expl_steps", "update_every_steps"]
        if value_of(plain, "agent.algorithm") in ("bc", "td3_bc"):
            online.append("stddev_schedule")
        return found | dict.fromkeys(
            (f"agent.{name}" for name in online), "before the agent continues online, where it is set again"
        )


register("offline_options", defaults(OfflineConfig))


def requested(composed: DictConfig) -> Any:
    """The requested values with checked types; the data's values are still missing.

    Raises:
        ConfigError: for values of other types, and if no data set is named.
    """
    if OmegaConf.is_missing(composed, "dataset"):
        raise ConfigError("name the data: dataset=PATH, a file or folder of episodes, or the folder of a run")
    plain = OmegaConf.create(OmegaConf.to_container(composed))
    assert isinstance(plain, DictConfig)
    import_modules(plain.imports)
    settle(plain)
    if plain.task is not None:
        plain.task = task_name(str(plain.task))
    for name in FROM_DATA:
        if not OmegaConf.is_interpolation(plain, name) and plain[name] is None:
            del plain[name]
    plain.data = {}
    try:
        plain.dataset = located(str(plain.dataset))
        return OmegaConf.merge(OmegaConf.structured(OfflineConfig), plain)  # run_dir may refer to the data's values
    except OmegaConfBaseException as error:
        raise ConfigError(f"the configuration does not fit: {explanation(error)}") from error


def told_by_run(provenance: Provenance) -> Provenance:
    """Adds values of the run whose replay the data are, if its folder still exists."""
    path = Path(str(provenance.made.get("run")), CONFIG)
    if "action_repeat" in provenance.made or not path.exists():
        return provenance
    run = load(path)
    made = provenance.made | {"action_repeat": run.action_repeat, "camera": run.camera, "distractors": vars(run.noise)}
    made["env"] = run.env
    return replace(provenance, task=provenance.task or run.task, made=made)


def completed(asked: Any, provenance: Provenance, image_size: int, fingerprint: str) -> OfflineConfig:
    """The checked configuration, with the data's values for options without a request.

    Args:
        asked: the result of `requested`.
        provenance: of the data.
        image_size: of the data's frames, in pixels.
        fingerprint: of the data's content.

    Raises:
        ConfigError: for impossible values, and if neither the data nor the configuration name the task.
        ValueError: for unknown names, with the nearest known ones.
    """
    provenance = told_by_run(provenance)
    action_repeat, camera = (provenance.made.get(name) for name in ("action_repeat", "camera"))
    if action_repeat is None and OmegaConf.is_missing(asked, "action_repeat"):
        action_repeat = USUAL_ACTION_REPEAT
        print(
            f"{asked.dataset} does not say how often each of its actions was repeated: evaluations repeat them "
            f"{action_repeat} times, as V-D4RL did; if that is wrong, give action_repeat=N",
            file=sys.stderr,
        )
    told = {"task": provenance.task, "action_repeat": action_repeat, "camera": camera, "image_size": image_size}
    if told["task"] is None and OmegaConf.is_missing(asked, "task"):
        raise ConfigError(
            f"{asked.dataset} does not say which task it is of: name one, as in task=cheetah_run. Data of a robot "
            f"without a simulator train an agent in Python (experiments/README.md, Offline data) or an encoder "
            f"(rlrep.experiments.pretrain)"
        )
    if (made_with := provenance.made.get("env") or {}) != asked.env:
        print(
            f"{asked.dataset} was collected in an environment made with env={made_with}; evaluations make it with "
            f"env={asked.env}",
            file=sys.stderr,
        )
    config = asked.copy()
    for name, value in told.items():
        if OmegaConf.is_missing(config, name):
            config[name] = value
    if config.noise.kind is None:
        config.noise.update((provenance.made.get("distractors") or {}) | {"videos": None})  # data name no files
        if config.noise.kind == "video":
            raise ConfigError(
                f"{asked.dataset} was collected with videos in the background, and evaluations need them too: give "
                f"noise.kind=video noise.videos=FOLDER, or others in their place"
            )
    if OmegaConf.is_missing(config, "run_dir"):
        level = provenance.level or name_of(config.dataset)
        config.run_dir = (
            f"runs/offline/{as_folder(f'{config.task}_{level}')}/{as_folder(config.agent['name'])}/seed_{config.seed}"
        )
    config.data = {name: value for name, value in asdict(provenance).items() if name not in ("task", "made")}
    config.data.update(name=name_of(config.dataset), fingerprint=fingerprint)
    return typed_as(OfflineConfig, config)


def name_of(dataset: str) -> str:
    """A name for data without a level: the last distinctive part of their path, without the ending of a file."""
    path = Path(dataset)
    file = any(path.suffix.lower() in each.endings for each in FORMATS)
    return telling_part(Path(path.parent, path.stem) if file else path)


def load(path: Path) -> OfflineConfig | TrainConfig:
    """The configuration in a run's folder, of an offline run or an online run.

    Raises:
        ConfigError: if it is missing or damaged.
    """
    try:
        offline = "dataset" in read_yaml(path)
    except (OSError, UnusableYaml):  # the next reader reports it
        offline = False
    return load_as(OfflineConfig, path) if offline else load_as(TrainConfig, path)
