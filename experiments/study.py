"""A long study: `python -m rlrep.experiments.study experiments/reports/dmc100k/study.yaml`.

Makes the missing runs of a protocol, one process per core, in runs/NAME/ARM/TASK/seed_N. Stores each finished run's
evaluations beside the protocol, and rewrites the report. After a stop or a kill, the same command continues.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from rlrep.envs.vector import processor_count
from rlrep.experiments.files import as_path
from rlrep.experiments.long_study.findings import power_text
from rlrep.experiments.long_study.make import make_missing
from rlrep.experiments.long_study.protocol import read_study
from rlrep.experiments.long_study.report import write_report
from rlrep.experiments.run.device import resolve_device


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m rlrep.experiments.study", description="Make and report a study.")
    parser.add_argument("study", type=as_path, metavar="STUDY.yaml", help="its protocol")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--jobs", type=int, help="runs side by side (default: the cores; on a GPU, one)")
    where.add_argument("--ray", action="store_true", help="make the runs on Ray instead")
    parser.add_argument("--report", action="store_true", help="only write the report of the runs that there are")
    parser.add_argument(
        "--power",
        nargs="+",
        type=float,
        metavar="SPREAD",
        help="only say what the design finds, if scores vary as much",
    )
    parser.add_argument("--level", type=float, help="with --power: the mean score, for effects in percent")
    options = parser.parse_args(arguments)
    if options.jobs is None:
        options.jobs = 1 if resolve_device("auto") == "cuda" else processor_count()
    if options.jobs < 1:
        parser.error("--jobs must be at least 1")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    try:
        study = read_study(options.study)
        if options.power:
            print(power_text(study, options.power, options.level))
            return 0
        failed = 0 if options.report else make_missing(study, None if options.ray else options.jobs)
        print(write_report(study))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command continues with what is missing", file=sys.stderr)
        return 1
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
