"""The benchmark's results as Markdown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from rlrep.experiments.results.tables import Line, markdown
from rlrep.experiments.speed.measure import Row


def report(machine: Row, rows: Sequence[Row], left_out: Mapping[str, str]) -> str:
    """A line on the machine, a table for each kind of row, and the missing measurements with the reasons."""
    threads = sorted({row["threads"] for row in rows})
    about = [
        machine["gpu"],
        machine["processor"],
        f"{machine['cores']} cores",
        f"{' and '.join(map(str, threads))} threads" if threads else "",
        *(name for name in ("amx", "avx512_bf16") if machine[name]),
        f"torch {machine['torch']}",
        f"Python {machine['python']}",
        f"load {machine['load_average']:.1f} at the start",
        machine["date"],
    ]
    parts = [", ".join(filter(None, about))]
    for title, what, section in SECTIONS:
        chosen = [row for row in rows if row["what"] in what]
        if chosen:
            parts.append(f"{title}\n\n{markdown(section(chosen))}")
    if left_out:
        parts.append("\n".join(["**Left out**", "", *(f"- {title}: {reason}" for title, reason in left_out.items())]))
    return "\n\n".join(parts)


def update_section(rows: list[Row]) -> list[Line]:
    lines = []
    for agent, batch in sorted({(row["agent"], row["batch_size"]) for row in rows}):
        found = {(row["what"], row["path"]): row for row in rows if (row["agent"], row["batch_size"]) == (agent, batch)}
        fast, eager, sb3, reference = (found.get(("update", path)) for path in ("fast", "eager", "sb3", "reference"))
        joint, joint_eager = (found.get(("joint_update", path)) for path in ("fast", "eager"))
        peaks = {"fast": fast, "eager": eager, "sb3": sb3, "reference": reference, "joint": joint}
        lines.append(
            {
                "agent": agent,
                "batch": str(batch),
                "fast ms": milliseconds(fast),
                "µs a sample": f"{fast['seconds'] / batch * 1e6:.0f}" if fast else "",
                "eager ms": milliseconds(eager),
                "eager/fast": ratio(eager, fast),
                "sb3 ms": milliseconds(sb3),
                "sb3/fast": ratio(sb3, fast),
                "reference ms": milliseconds(reference),
                "reference/fast": ratio(reference, fast),
                "joint ms": milliseconds(joint),
                "joint/fast": ratio(joint, fast),
                "joint eager ms": milliseconds(joint_eager),
                **{f"{name} MB": f"{row['peak_memory_bytes'] / 1e6:.0f}" if row else "" for name, row in peaks.items()},
            }
        )
    return lines


def act_section(rows: list[Row]) -> list[Line]:
    return [{"agent": row["agent"], "path": row["path"], "ms": milliseconds(row)} for row in rows]


def replay_section(rows: list[Row]) -> list[Line]:
    lines = []
    for row in rows:
        share = row.get("share_of_update")
        lines.append(
            {
                "call": "add a transition" if row["what"] == "replay_add" else f"sample {row['batch_size']}",
                "storage": row["storage"],
                "ms": milliseconds(row),
                "of the fast update": f"{share:.1%} of {row['share_of_agent']}'s" if share else "",
                "kB a transition": f"{row['bytes_per_transition'] / 1e3:.1f}",
            }
        )
    return lines


def rendering_section(rows: list[Row]) -> list[Line]:
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        drawn = {row["rendering"]: row for row in rows if row["task"] == task}
        exact, fast = drawn["exact"], drawn["fast"]
        lines.append(
            {
                "task": task,
                "exact ms": milliseconds(exact),
                "fast ms": milliseconds(fast),
                "exact/fast": ratio(exact, fast),
                "mean difference of 255": f"{fast['mean_difference']:.3f}",
            }
        )
    return lines


def loop_section(rows: list[Row]) -> list[Line]:
    return [
        {
            "task": row["task"],
            "preset": row["preset"],
            "agent": row["agent"],
            "batch": str(row["batch_size"]),
            "path": row["path"],
            "environments": str(row["num_envs"]),
            "frames/s": f"{row['frames_per_second']:.0f}",
            "updates : agent steps": f"{row['updates']} : {row['agent_steps']}",
            "asked": f"1 : {row['update_every_steps']:g}",
            "minutes for 1M frames": f"{row['minutes_per_million_frames']:.1f}",
            "evaluations add": f"{row['minutes_of_evaluation_per_million_frames']:.1f}",
        }
        for row in sorted(rows, key=lambda row: (row["path"] != "fast", row["num_envs"]))
    ]


def roofline_section(rows: list[Row]) -> list[Line]:
    return [
        {
            "agent": row["agent"],
            "batch": str(row["batch_size"]),
            "update ms": milliseconds(row),
            "GFLOP": f"{row['operations'] / 1e9:.3g}",
            "GB moved": f"{row['bytes_moved'] / 1e9:.3g}",
            "ceilings": f"{row['operations_per_second_ceiling'] / 1e12:.3g} TFLOP/s in {row['precision']}, "
            f"{row['bytes_per_second_ceiling'] / 1e9:.3g} GB/s",
            "compute ceiling ms": milliseconds(row, "compute_ceiling_seconds"),
            "memory ceiling ms": milliseconds(row, "memory_ceiling_seconds"),
            "of the roofline, op by op": f"{row['share_of_roofline']:.0%} ({row['bound_by']})",
        }
        for row in rows
    ]


def kernels_section(rows: list[Row]) -> list[Line]:
    return [
        {
            "agent": row["agent"],
            "batch": str(row["batch_size"]),
            "ms": milliseconds(kernel),
            "launches": str(kernel["launches"]),
            "kernel": "`" + kernel["name"][:100].replace("|", r"\|") + "`",
        }
        for row in rows
        for kernel in row["kernels"]
    ]


def milliseconds(row: Row | None, name: str = "seconds") -> str:
    if row is None:
        return ""
    value = row[name] * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def ratio(slower: Row | None, faster: Row | None) -> str:
    return f"{slower['seconds'] / faster['seconds']:.2f}" if slower and faster else ""


SECTIONS: list[tuple[str, tuple[str, ...], Callable[[list[Row]], list[Line]]]] = [
    (
        "**Update.** fast is ours; eager is the same in float32 with every acceleration off; sb3 is the SAC of\n"
        "Stable-Baselines3 with CnnPolicy. All sample their batch from a replay. Medians of blocks in turns.\n"
        "Peak memory is the whole process's, on CUDA torch's.",
        ("update", "joint_update"),
        update_section,
    ),
    ("**Act**: encode one observation and act.", ("act",), act_section),
    ("**Replay.**", ("replay_sample", "replay_add"), replay_section),
    ("**Rendering**, a frame.", ("rendering",), rendering_section),
    (
        "**Loop**: simulator steps a second in training, and the minutes that the preset's evaluations of 10\n"
        "episodes each add to a million of them.",
        ("loop",),
        loop_section,
    ),
    (
        "**Roofline.** Work is counted operation by operation: what a compiler joins or a cache holds counts as moved.",
        ("roofline",),
        roofline_section,
    ),
    ("**Busiest kernels** of one update; without a GPU, torch's operations.", ("roofline",), kernels_section),
]
