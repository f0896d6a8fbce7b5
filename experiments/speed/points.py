"""The points to measure, and the child processes that each of them needs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rlrep.envs.vector import processor_count
from rlrep.experiments.speed.measure import AGENTS, Row
from rlrep.experiments.speed.options import PATHS, WHAT, BadOption, Options

BATCHES = [64, 256, 1024]
TASKS = ["cheetah_run", "walker_walk", "quadruped_run", "cartpole_swingup"]


@dataclass
class Contender:
    """One child: its measurement, the arguments, and their columns in its rows."""

    measures: str
    arguments: Row
    row: Row


@dataclass
class Point:
    """Children whose calls are timed in turns, so that other load on the machine affects all equally.

    `calls` names the calls, and the columns that each adds to a row; a child that answers with rows has none. Points of
    a small `rank` are measured first.
    """

    title: str
    rank: int
    contenders: list[Contender]
    calls: dict[str, Row]


def plan(options: Options) -> list[Point]:
    """The requested points, the most important first.

    Raises:
        BadOption: if there are none.
    """
    planners = {
        "update": update_points,
        "act": act_points,
        "replay": replay_points,
        "rendering": rendering_points,
        "loop": loop_points,
        "roofline": roofline_points,
    }
    points = [point for what in options.what or WHAT for point in planners[what](options)]
    points = [point for point in points if point.contenders]
    if not points:
        raise BadOption(f"nothing to measure: {' and '.join(options.what)} has no path=sb3, only update has")
    return sorted(points, key=lambda point: point.rank)


def update_points(options: Options) -> Iterator[Point]:
    for agent in options.agent or AGENTS:
        for batch in options.batch or BATCHES:
            contenders = [
                update_contender(options, agent, batch, path, update)
                for update in options.update or ["separate"]
                for path in options.path or PATHS
                if path != "sb3"
            ]
            # The saving by joint updates is measured with the most important update.
            if not options.what and not options.update and agent == "taco" and batch == 256:
                contenders.append(update_contender(options, agent, batch, "fast", "joint"))
            if "sb3" in (options.path or PATHS):
                sb3 = {"batch_size": batch, "path": "sb3", "image_size": options.image_size or 84}
                contenders.append(Contender("sb3", sb3, {"agent": agent, "batch_size": batch, "path": "sb3"}))
            if options.reference and agent == "taco":
                theirs = {"folder": options.reference, "batch_size": batch, "path": "reference", **network(options)}
                contenders.append(
                    Contender("reference", theirs, {"agent": agent, "batch_size": batch, "path": "reference"})
                )
            main = agent == "taco" and batch != 64
            yield Point(f"update {agent} batch {batch}", 0 if main else 50, contenders, {"update": {"what": "update"}})


def update_contender(options: Options, agent: str, batch: int, path: str, update: str) -> Contender:
    row = {"agent": agent, "batch_size": batch, "path": path, "update": update}
    # Named separately, so that filtering on "update" finds only the paper's variant.
    own_name = {"what": "joint_update"} if update == "joint" else {}
    return Contender("update", {**row, **network(options)}, {**row, **own_name})


def network(options: Options) -> Row:
    return {"image_size": options.image_size or 84, "channels": options.channels or 32}


def act_points(options: Options) -> Iterator[Point]:
    paths = [path for path in options.path or ["fast"] if path != "sb3"]
    for agent in options.agent or AGENTS:
        rows = [{"agent": agent, "path": path} for path in paths]
        contenders = [Contender("act", {**row, **network(options)}, {**row, "batch_size": 1}) for row in rows]
        yield Point(f"act {agent}", 40 if agent == "taco" else 60, contenders, {"act": {"what": "act"}})


def replay_points(options: Options) -> Iterator[Point]:
    batches = options.batch or BATCHES
    shared = {"batch_sizes": batches, "image_size": options.image_size or 84}
    storages = ["memory", "disk", *([options.device] if options.cuda else [])]
    contenders = [Contender("replay", {"storage": name, **shared}, {"storage": name}) for name in storages]
    calls: dict[str, Row] = {f"sample {size}": {"what": "replay_sample", "batch_size": size} for size in batches}
    yield Point("replay", 10, contenders, {**calls, "add": {"what": "replay_add"}})


def rendering_points(options: Options) -> Iterator[Point]:
    for task in options.task or TASKS:
        arguments = {"task": task, "image_size": options.image_size or 84}
        yield Point(
            f"rendering {task}", 70, [Contender("rendering", arguments, {"what": "rendering", **arguments})], {}
        )


def loop_points(options: Options) -> Iterator[Point]:
    """Whole runs at their preset's sizes, unless the options say otherwise."""
    preset = "paper" if options.cuda else "cpu"
    task = "quadruped_run" if options.cuda else "cheetah_run"
    cores = processor_count()
    numbers = [16, 1, 4, 8] if options.cuda else [1, 2, 4]
    numbers = options.num_envs or [number for number in numbers if number <= 2 * cores]
    paths = [path for path in options.path or ["fast", "eager"] if path != "sb3"]
    sizes: Row = {"image_size": options.image_size, "encoder.channels": options.channels}
    if options.batch:
        sizes["batch_size"] = options.batch[0]
    if options.update:
        sizes["update"] = options.update[0]
    seconds = options.seconds * (10 if options.cuda else 3)
    for run_task in options.task or [task]:
        values = {"preset": preset, "task": run_task, **sizes}
        overrides = [f"{name}={value}" for name, value in values.items() if value is not None]
        for agent in options.agent or ["taco"]:
            for number in numbers:
                for path in paths:
                    if path == "eager" and number != numbers[0] and not options.path:
                        continue  # one comparison tells
                    row = {"agent": agent, "num_envs": number, "path": path}
                    arguments = {**row, "seconds": seconds, "overrides": overrides}
                    rank = 90 if path == "eager" else 20 if number == numbers[0] else 80
                    contender = Contender("loop", arguments, {"what": "loop", "preset": preset, **row})
                    yield Point(f"loop {run_task} {agent} num_envs={number} {path}", rank, [contender], {})


def roofline_points(options: Options) -> Iterator[Point]:
    for agent in options.agent or ["taco"]:
        for batch in options.batch or ([256, 1024] if options.cuda else [256]):
            contender = update_contender(options, agent, batch, "fast", (options.update or ["separate"])[0])
            contender.measures, contender.row["what"] = "roofline", "roofline"
            yield Point(f"roofline {agent} batch {batch}", 30, [contender], {})
