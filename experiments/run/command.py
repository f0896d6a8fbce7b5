"""The command line of Hydra's configurations: accepts overrides as users type them, and suggests the nearest name."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rlrep.experiments.run.options import ConfigError, Option, describe, options_of, refusals, without_effect
from rlrep.experiments.run.stop import EarlyStop, end_by_signals
from rlrep.experiments.yaml_files import value_of

if TYPE_CHECKING:
    from omegaconf import DictConfig

CONF = Path(__file__).parents[1] / "conf"
GROUPS = ("agent", "preset")
# Sections with the argument names of another function, which checks them itself.
OPEN = ("agent", "objective", "options", "env", "format_options", "offline.format_options")
IN_OPEN = rf"({'|'.join(map(re.escape, OPEN))})\."
# Hydra's own switches, and the number of words after each.
SWITCHES = {
    **dict.fromkeys(("--help", "-h", "--hydra-help", "--version", "--resolve", "--run", "-r", "--multirun", "-m"), 0),
    **dict.fromkeys(("--shell-completion", "-sc"), 0),
    **dict.fromkeys(("--cfg", "-c", "--package", "-p", "--config-path", "-cp", "--config-name", "-cn"), 1),
    **dict.fromkeys(("--config-dir", "-cd", "--experimental-rerun", "--info", "-i"), 1),
}
SWEEPS = Path("runs/multirun")  # as in conf/quiet.yaml


def start(main: Callable[[], Any], schema: type, conf: str = "") -> None:
    """Runs Hydra's `main` on the overrides in `sys.argv`.

    Args:
        main: the decorated function.
        schema: the dataclass of its options.
        conf: the folder in experiments/conf with its configuration.
    """
    arguments = sys.argv[1:]
    if {"--help", "-h"} & {*arguments}:
        print(help_text(sys.modules["__main__"].__doc__ or "", schema))
        return
    try:
        words = check_words(arguments, options_of(schema))
        sweeping = bool({"--multirun", "-m"} & {*arguments})
        sys.argv[1:] = for_hydra(arguments, paths_of(schema) if not sweeping else ())
        check_choices(words, conf)
        check_names(words, schema)
        if sweeping:
            check_sweeps(words)
    except ValueError as error:
        sys.exit(f"error: {error}")
    try:
        main()
    finally:
        end_by_signals()


def help_text(doc: str, schema: type) -> str:
    agents = ", ".join(sorted(path.stem for path in (CONF / "agent").glob("*.yaml")))
    groups = (
        [f"  agent={'…':<25} {agents}; --cfg job prints its options", f"  preset={'…':<24} cpu, paper"]
        if "agent" in options_of(schema)
        else []
    )
    shown = [line for line in describe(schema) if not line.startswith(("  agent=", "  data={}"))]
    advice = "KEY=VALUE sets an option. --multirun runs every combination of KEY=VALUE,VALUE."
    return "\n".join([doc.strip(), "", advice, "", *groups, *shown])


def paths_of(schema: type) -> tuple[str, ...]:
    """The options that are files or folders; ``encoder`` is short for ``encoder.path``."""
    paths = tuple(name for name, known in options_of(schema).items() if known.path)
    return (*paths, "encoder") if "encoder.path" in paths else paths


def for_hydra(arguments: Sequence[str], paths: Iterable[str] = ()) -> list[str]:
    """Converts overrides as users type them to the form that Hydra needs.

    For Hydra, ``encoder=FOLDER`` is a section with several values, ``agent=package.module:Class`` is not a file of the
    configuration, ``options.new=1`` needs a plus, ``linear(1.0,0.1,100)`` without quotes is a Hydra function, and
    ``1e6`` is not a whole number.

    Args:
        arguments: what was typed.
        paths: options whose values are taken as typed, without Hydra's syntax; ``null`` means no path.
    """
    rewritten = []
    for argument in arguments:
        name, equals, value = argument.partition("=")
        is_section = name.lstrip("+") == "encoder" and value.startswith("{")
        if equals and name.lstrip("+") in paths and not (is_section or is_quoted(value)):
            argument = f"{name}={as_typed(value)}"
        if name == "agent" and re.fullmatch(r"[\w.]+:\w+", value):
            rewritten += ["agent=own", f"++agent.algorithm={value}", f"++agent.name={value.rpartition(':')[2]}"]
            continue
        argument = re.sub(r"^(\+*)encoder=(?!\{)", r"\1encoder.path=", argument)
        argument = re.sub(f"^{IN_OPEN}", r"++\1.", argument)
        argument = re.sub(r"^stddev_schedule=((?:step_)?linear\([^']*\))$", r"stddev_schedule='\1'", argument)
        argument = re.sub(r"=(\d+(?:\.\d+)?e\+?\d+)$", lambda number: f"={float(number[1]):.0f}", argument)
        rewritten.append(argument)
    return rewritten


def is_quoted(value: str) -> bool:
    """Whether a value is null or in Hydra's quotes."""
    return value == "null" or re.fullmatch(r"'.*'|\".*\"", value, re.DOTALL) is not None


def as_typed(path: str) -> str:
    """A path in quotes; expands ``~``, because shells do not expand it after an equals sign."""
    path = os.path.expanduser(path) if path.startswith("~") else path
    return "'" + re.sub(r"(\\*)('|$)", lambda end: end[1] * 2 + ("\\'" if end[2] else ""), path) + "'"


def check_words(arguments: Sequence[str], known: dict[str, Option]) -> list[str]:
    """The overrides among the arguments.

    Raises:
        ConfigError: for words that are neither an override nor a switch of Hydra, such as ``--seed=1`` and ``seed 1``;
            for an empty path; and for text that a run's files cannot store.
    """
    overrides, following = [], 0
    for argument in arguments:
        if following:
            following -= 1
            continue
        switch, equals, value = argument.partition("=")
        if argument.isprintable() is False and any(0xD800 <= ord(letter) <= 0xDFFF for letter in argument):
            raise ConfigError(f"{argument!a} is not UTF-8: rename the file or folder")
        if switch in SWITCHES:
            following = 0 if equals else SWITCHES[switch]
            continue
        if argument.startswith("-"):
            raise ConfigError(f"options have no dashes: write {switch.strip('-').replace('-', '_')}={value or 'VALUE'}")
        if not equals and not argument.startswith("~"):
            raise ConfigError(f"{argument!r} sets nothing: options are written KEY=VALUE, without spaces")
        name = switch.lstrip("+")
        if not value and name in known and known[name].path:
            raise ConfigError(f"{name}= is empty: give a file or folder, or leave it out")
        overrides.append(argument)
    return overrides


def check_choices(arguments: Sequence[str], conf: str = "") -> None:
    """Refuses unknown names of agents and of presets in `conf`; Hydra's own error does not suggest the nearest name."""
    from rlrep.registry import look_up

    if brings_files(sys.argv[1:]):
        return
    for argument in arguments:
        group, _, choices = argument.partition("=")
        if group in GROUPS and re.fullmatch(r"\w+(,\w+)*", choices):
            folder = CONF / conf if group == "preset" else CONF
            known = {path.stem: path for path in (folder / group).glob("*.yaml")}
            for choice in choices.split(","):
                look_up(group, choice, known)


def check_names(arguments: Sequence[str], schema: type) -> None:
    """Refuses unknown settings, and a single objective without list brackets."""
    from rlrep.registry import unknown

    if brings_files(sys.argv[1:]):
        return
    options = options_of(schema)
    sections = {name.rpartition(".")[0] for name in options} - {""}
    for argument in arguments:
        setting, equals, value = argument.partition("=")
        section = setting.partition(".")[0]
        is_name = section != setting and section in options and isinstance(options[section].default, str)
        left_to_others = section in (*GROUPS, *OPEN, "hydra") or re.match(IN_OPEN, setting)
        if (left_to_others and not is_name) or not (equals and re.fullmatch(r"[\w.]+", setting)):
            continue
        if setting not in options and setting not in sections:
            raise unknown("setting", setting, {*options, *sections})
        if setting in ("objectives", "imports") and re.fullmatch(r"[\w.:]+(,[\w.:]+)*", value):
            raise ValueError(f"{setting} is a list: write {setting}=[{value}]")
        if setting in sections and f"{setting}.path" not in options and not value.startswith("{"):
            inside = [name for name in options if name.startswith(f"{setting}.")]
            raise ValueError(f"{setting} has options of its own: set {', '.join(inside)}")


def check_sweeps(arguments: Sequence[str]) -> None:
    """Refuses a folder where Hydra cannot write the files of --multirun."""
    if any(argument.lstrip("+").startswith("hydra.sweep.dir=") for argument in arguments):
        return
    try:
        SWEEPS.mkdir(parents=True, exist_ok=True)
        if not os.access(SWEEPS, os.W_OK):
            raise PermissionError(0, "no right to write there")
    except OSError as error:
        raise ConfigError(
            f"--multirun writes to {SWEEPS.absolute()}, which can't be written ({error.strerror}): start it in another "
            f"folder, or give hydra.sweep.dir=FOLDER"
        ) from error


def check_effects(typed: Iterable[str], composed: DictConfig, schema: type) -> None:
    """Refuses or reports typed settings that change nothing, even if they equal the default.

    Settings in the schema's `idle`, if it has one, are only reported: a sweep may set them for all runs, although only
    some runs read them.

    Args:
        typed: the overrides of one run.
        composed: the run's configuration.
        schema: the dataclass of its options.

    Raises:
        ConfigError: naming what the setting needs.
    """
    from omegaconf import OmegaConf

    from rlrep.agents import find_agent
    from rlrep.experiments.run.config import OF_THE_CHOICE
    from rlrep.experiments.run.initial_agent import brings_data

    plain: Any = OmegaConf.to_container(composed, resolve=False)
    options = options_of(schema)
    idle: dict[str, str] = schema.idle(plain) if hasattr(schema, "idle") else {}
    algorithm = value_of(plain, "agent.algorithm")
    with refusals():
        own = find_agent(algorithm).own_objectives if algorithm else ()
    for override in typed:
        name = override.partition("=")[0].lstrip("+~")
        known = options.get(name)
        if known is not None and known.needs and not any(value_of(plain, need) for need in known.needs):
            raise without_effect(override.lstrip("+~"), known)
        if known is not None and "offline.data" in known.needs and not brings_data(plain):
            raise ConfigError(
                f"{override.lstrip('+~')} has no effect: init={plain['init']} is no offline run, and brings no data; "
                f"give offline.data=PATH as well, or leave it out"
            )
        if known is not None and known.referenced and f"${{{name}}}" not in str(plain):
            raise ConfigError(
                f"{name} has no effect: agent={plain['agent']['name']} does not follow it. Its own options are "
                f"{', '.join(f'agent.{each}' for each in plain['agent'] if each not in OF_THE_CHOICE)}"
            )
        if name in idle:
            print(f"note: {name} has no effect {idle[name]}", file=sys.stderr)
        section, _, rest = name.partition(".")
        objective = rest.partition(".")[0]
        used = [*own, *(each.rpartition(":")[2] for each in plain.get("objectives", []))]
        if section == "objective" and rest and objective not in used:
            print(f"note: {name} has no effect without objectives=[{objective}]", file=sys.stderr)


def brings_files(arguments: Sequence[str]) -> bool:
    """Whether the command uses configuration files that only Hydra finds."""
    return any(argument.startswith(("--config", "-cd", "-cn", "-cp")) for argument in arguments)


def tell(
    train: Callable[[DictConfig], Path],
    composed: DictConfig,
    schema: type,
    then: Callable[[Path, DictConfig], str],
    stopped: str = "stopped: resume with resume=true",
) -> None:
    """Runs `train` and reports how it ended; errors that users can fix are shown without a traceback.

    Args:
        train: a function of the configuration; returns the folder of the result.
        composed: the configuration.
        schema: the dataclass of its options.
        then: gives the command that uses the result, from its folder and the configuration.
        stopped: the message after a signal before anything was stored.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import CompactHydraException
    from hydra.types import RunMode

    from rlrep.experiments.run.driver import EXPECTED, Stopped
    from rlrep.experiments.run.options import refusals

    early = EarlyStop()
    try:
        with early:
            with refusals():
                check_effects(HydraConfig.get().overrides.task, composed, schema)
            folder = train(composed)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        sys.exit(stop.exit_code)
    except BaseException as error:
        if early.signal is not None or isinstance(error, KeyboardInterrupt):  # hides the intermediate exception
            print(stopped, file=sys.stderr)
            sys.exit(128 + (early.signal or signal.SIGINT))
        if not isinstance(error, EXPECTED) or os.environ.get("HYDRA_FULL_ERROR") == "1":
            raise
        if HydraConfig.get().mode is RunMode.MULTIRUN:  # Hydra runs the other runs, and fails at the end
            raise CompactHydraException(f"error: {error}") from error
        sys.exit(f"error: {error}")
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several processes
        print(f"finished: {folder}")
        print(f"next: {then(folder, composed)}")


def evaluation(run: Path, composed: DictConfig) -> str:
    """The command that evaluates a run; it imports the run's import paths."""
    formats = (value_of(composed, "format"), value_of(composed, "offline.format"))
    names = [composed.get("task") or "", composed.agent.algorithm, *composed.objectives, *filter(None, formats)]
    imported = [*composed.imports, *(name.partition(":")[0] for name in names if ":" in name)]
    imports = f" --imports {' '.join(dict.fromkeys(imported))}" if imported else ""
    return f"python -m rlrep.experiments.evaluate {shlex.quote(str(run))} --episodes 20{imports}"
