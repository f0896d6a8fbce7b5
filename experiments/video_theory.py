"""Which methods survive which noise: `python -m rlrep.experiments.video_theory`, or `make theory`.

Reruns the question of *Towards Principled Representation Learning from Videos for RL* (arXiv 2403.13765): encoders are
trained on videos, probed, frozen, and used by PPO. `--source videos/` measures your own videos. Every cell (a method,
a noise, a length of training, a seed) is a file in OUT/cells. Existing cells are not run again, so that the study can
be stopped and resumed. At the end it writes a report on all cells.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rlrep.envs.vector import processor_count
from rlrep.experiments.files import as_path, locked
from rlrep.experiments.video_study.cells import METHODS
from rlrep.experiments.video_study.report import write_report, write_table
from rlrep.experiments.video_study.study import STUDIES, chosen_jobs, run_missing


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m rlrep.experiments.video_theory", description="Which methods survive which noise."
    )
    parser.add_argument("studies", nargs="*", default=["tour"], help=f"any of {', '.join(STUDIES)}; tour by default")
    parser.add_argument("--seeds", type=int, default=1, help="how many, each with its own map; verdicts need several")
    parser.add_argument("--first-seed", type=int, default=0, help="the least of them, for studies that count from 0")
    parser.add_argument("--methods", nargs="+", help=f"any of {', '.join(METHODS)}; default: each study's own")
    parser.add_argument("--source", type=as_path, help="your own videos instead of a study: a file or a folder")
    parser.add_argument("--out", type=as_path, default=Path("runs/theory"), help="folder of cells, pictures and report")
    parser.add_argument("--workers", type=int, default=processor_count(), help="parallel processes, one thread each")
    parser.add_argument(
        "--report",
        action="store_true",
        help="only write the report on the existing cells, or if OUT is a folder of such folders, one table of all",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, in OUT/quick, to check that everything runs")
    parser.add_argument("--fps", type=float, help="with --source: brings all videos to this rate, by dropping frames")
    parser.add_argument(
        "--skip-corrupt", action="store_true", help="with --source: leaves out files that can't be used"
    )
    options = parser.parse_args(arguments)
    if min(options.seeds, options.workers) < 1 or options.first_seed < 0:
        parser.error("--seeds and --workers must be at least 1, --first-seed at least 0")
    if options.source and (options.report or options.first_seed or options.studies != ["tour"]):
        parser.error("--source takes no studies, --first-seed or --report: it measures videos in this process")
    reading = dict(fps=options.fps, skip_corrupt=options.skip_corrupt)
    if not options.source and any(reading.values()):
        parser.error("--fps and --skip-corrupt are for videos: give --source")
    try:
        jobs = []
        if not (options.report or options.source):
            jobs = chosen_jobs(options.studies, options.methods, options.seeds, options.first_seed)
        if options.quick:  # so that its cells are not taken for cells of the study
            options.out /= "quick"
        with locked(options.out):
            if options.source:
                from rlrep.experiments.video_study.own_videos import study

                study(options.source, options.methods, options.seeds, options.out, options.quick, **reading)
                print((options.out / "videos.md").read_text())
                return 0
            if options.report and not (options.out / "cells").exists():
                print(f"table: {write_table(options.out)}")
                return 0
            failed = run_missing(jobs, options.out, options.workers, options.quick)
            write_report(options.out, options.out, options.quick)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        told = str(error).replace("fps=RATE", "--fps RATE").replace("skip_corrupt=True", "--skip-corrupt")
        print(f"error: {told}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped: the same command runs the missing cells", file=sys.stderr)
        return 1
    print(f"report: {options.out / 'report.md'}")
    for line in failed:
        print(f"failed: {line}", file=sys.stderr)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
