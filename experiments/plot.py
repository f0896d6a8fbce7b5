"""Learning curves: `python -m rlrep.experiments.plot RUN [RUN ...] --group agent --out curve.png`.

A run is a folder with `config.yaml` and `eval.csv`; a folder of runs means all runs in it, and a table of this command
means its curves. Runs with the same label are seeds of one curve: their mean, with its 95 % t interval.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rlrep.experiments.files import as_path
from rlrep.experiments.results.curve_tables import summary
from rlrep.experiments.results.curves import GROUP, draw_runs
from rlrep.experiments.results.runs import as_finite


def as_pair(text: str) -> tuple[str, str]:
    value, found, name = text.partition("=")
    if not (value and found and name):
        raise ValueError(f"--names takes VALUE=NAME, got {text!r}")
    return value, name


def as_pairs(texts: Sequence[str]) -> dict[str, str]:
    names: dict[str, str] = {}
    for text in texts:
        value, name = as_pair(text)
        if value in names:
            raise ValueError(f"--names gives {value} two names, {names[value]} and {name}: leave one out")
        names[value] = name
    return names


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlrep.experiments.plot", description="Draw runs together.")
    parser.add_argument(
        "runs", nargs="+", type=as_path, metavar="RUN", help="a run, a folder of runs, or a CSV of curves"
    )
    parser.add_argument("--group", metavar="KEY", help=f"config key of runs; a curve for each value (default: {GROUP})")
    parser.add_argument("--names", nargs="+", metavar="VALUE=NAME", help="VALUE may be its end only")
    parser.add_argument("--out", default=Path("curve.png"), type=as_path, help="picture (default: %(default)s)")
    parser.add_argument("--csv", type=as_path, help="the numbers drawn (default: beside the picture)")
    parser.add_argument("--title")
    parser.add_argument(
        "--random", type=as_finite, metavar="RETURN", help="the random policy's return, where runs lack it"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        curves = draw_runs(
            options.runs,
            options.out,
            group=options.group,
            names=as_pairs(options.names or ()),
            csv_out=options.csv,
            title=options.title,
            random_return=options.random,
        )
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(summary(curves, options.group or GROUP))
    print(f"\n{options.out} drawn from {options.csv or options.out.with_suffix('.csv')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
