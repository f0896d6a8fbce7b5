"""What offline data hold, and from one format to another.

python -m experiments.data info PATH: format, episodes, returns, actions, provenance, and a picture of frames
python -m experiments.data convert SRC DST --format vd4rl_84
"""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from experiments.run.inspection import convert, info
from rlrep.data.dataset import WRITERS


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.data", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("info", help="what a data set holds")
    one.add_argument("path", help="of the data: a file, a folder, or the id of a Minari data set")
    one.add_argument("--picture", type=Path, help="where the PNG of frames goes; PATH.png by default")
    two = commands.add_parser("convert", help="from one format to another")
    two.add_argument("source", help="any data that info reads")
    two.add_argument("target", help="a new folder")
    two.add_argument("--format", choices=sorted(WRITERS), default="rlrep")
    for name, kind in (("task", str), ("level", str), ("random-return", float), ("expert-return", float)):
        two.add_argument(f"--{name}", type=kind, help="recorded, where the source does not say it or says it wrongly")
    for command in (one, two):
        command.add_argument("--skip-corrupt", action="store_true", help="leave out files that can't be used")
    options = parser.parse_args(arguments)
    warnings.filterwarnings("ignore", module="minari")
    try:
        if options.command == "info":
            info(options.path, options.picture, options.skip_corrupt)
        else:
            known = {name: getattr(options, name) for name in ("task", "level", "random_return", "expert_return")}
            convert(options.source, options.target, options.format, options.skip_corrupt, known)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(f"error: {error}".replace("skip_corrupt=True", "--skip-corrupt"), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
