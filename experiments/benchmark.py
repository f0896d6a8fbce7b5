"""Measures how fast everything is, on this machine, in one run: python -m rlrep.experiments.benchmark

Prints one table, with ratios, and rewrites a JSON list of rows (out=benchmark.json) after each measured point.

    python -m rlrep.experiments.benchmark update agent=taco batch=256 out=taco.json

measures only one thing: update, act, replay, rendering, loop or roofline. Options, some with a comma list:

    agent=drqv2,taco,sac,sac+taco,mrq   batch=64,256,1024   path=fast,eager,sb3   update=separate,joint   device=auto
    reference=FOLDER   TACO's own update beside ours, from a clone of https://github.com/FrankZheng2022/TACO
    image_size=84   channels=32   task=...   num_envs=...   threads=...
    seconds=...    time for each measured point     minutes=...    for all; what does not fit is listed as left out
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rlrep.experiments.speed.bench import Benchmark
from rlrep.experiments.speed.options import check_out, parse
from rlrep.experiments.speed.table import report


def main(arguments: Sequence[str] | None = None) -> int:
    words = list(sys.argv[1:] if arguments is None else arguments)
    if {"-h", "--help", "help"} & set(words):
        print(__doc__)
        return 0
    try:
        options = parse(words)
        benchmark = Benchmark(options)
        check_out(options.out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        benchmark.run()
        code = int(benchmark.failed)
    except KeyboardInterrupt:
        code = 130
    print(report(benchmark.machine, benchmark.rows, benchmark.left_out))
    if benchmark.rows:
        print(f"\nwritten to {options.out}")
    return code


if __name__ == "__main__":
    sys.exit(main())
