"""Offline runs in one table and one picture: python -m rlrep.experiments.offline_report RUN [RUN ...] --out FOLDER

A run is the folder of a finished rlrep.experiments.offline; a folder of runs means all runs in it.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rlrep import OBJECTIVES
from rlrep.experiments.comparison.report import write_report
from rlrep.experiments.comparison.scores import read_results
from rlrep.experiments.files import as_path
from rlrep.registry import look_up


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlrep.experiments.offline_report", description="Compare offline runs."
    )
    parser.add_argument("runs", nargs="+", type=as_path, metavar="RUN", help="a run, or a folder with runs in it")
    parser.add_argument("--out", default=Path("offline_report"), type=as_path, help="folder (default: %(default)s)")
    parser.add_argument("--objective", default="taco", help="what is compared with its absence (default: %(default)s)")
    options = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        look_up("objective", options.objective, OBJECTIVES)
        text = write_report(read_results(options.runs, options.objective), options.out, options.objective)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(text)
    print(f"{options.out}: report.md, report.csv, runs.csv, report.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
