"""Shows the content of offline data, and converts formats.

python -m rlrep.experiments.data info PATH: format, episodes, returns, actions, provenance, and a picture of frames
python -m rlrep.experiments.data convert SRC DST --format vd4rl_84
"""

from __future__ import annotations

import argparse
import io
import shlex
import sys
from collections.abc import Sequence

from rlrep.data import TransitionFiles
from rlrep.data.formats import WRITTEN, make_format
from rlrep.data.transition_files import check_target
from rlrep.experiments.files import as_path
from rlrep.experiments.results.runs import as_finite
from rlrep.experiments.run.inspection import convert, info
from rlrep.experiments.run.log import reading

# The library's names for the command's options, as in its messages.
OPTIONS = {
    "skip_corrupt=True": "--skip-corrupt",
    "format=lerobot format_options.": "--format lerobot --format-option ",
    "frame_channels=": "--frame-channels=",
    "channels_last=True or False": "--channels-last or --no-channels-last",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m rlrep.experiments.data",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("info", help="what a data set holds")
    one.add_argument("source", metavar="path", help="of the data: a file, a folder, or the id of a Minari data set")
    one.add_argument("--picture", type=as_path, help="where the PNG of frames goes; PATH.png by default")
    two = commands.add_parser("convert", help="from one format to another")
    two.add_argument("source", help="any data that info reads")
    two.add_argument("target", help="a new folder")
    two.add_argument(
        "--format",
        default="rlrep",
        help=f"{', '.join(each.name for each in WRITTEN)}, or package.module:Class of your own",
    )
    for name, kind in (("task", str), ("level", str), ("random-return", as_finite), ("expert-return", as_finite)):
        two.add_argument(f"--{name}", type=kind, help="recorded, where the source does not say it or says it wrongly")
    for command in (one, two):
        command.add_argument(
            "--format" if command is one else "--source-format",
            dest="source_format",
            help="of the data, where the files do not tell: a name, or package.module:Class of your own",
        )
        command.add_argument(
            "--format-option" if command is one else "--source-option",
            dest="format_options",
            metavar="NAME=VALUE",
            type=format_option,
            action="append",
            default=[],
            help="of that format, such as camera=observation.images.top; may be repeated",
        )
        command.add_argument("--skip-corrupt", action="store_true", help="leave out files that can't be used")
        command.add_argument(
            "--frame-channels", type=int, help="channels of a frame where pictures hold several: 1 for grey, 3 for RGB"
        )
        command.add_argument(
            "--channels-last",
            action=argparse.BooleanOptionalAction,
            help="whether pictures are (height, width, channels), where their shape leaves it open",
        )
    return parser.parse_args(arguments)


def format_option(text: str) -> tuple[str, str | int]:
    """A name and its value, a whole number if it looks like one."""
    name, sign, value = text.partition("=")
    if not name or not sign:
        raise argparse.ArgumentTypeError(f"must be NAME=VALUE, got {text!r}")
    return name, int(value) if value.isdecimal() else value


def settings(options: argparse.Namespace) -> list[str]:
    """The format and its options as other commands take them."""
    if options.source_format is None:
        return []
    chosen = [f"format_options.{name}={value}" for name, value in options.format_options]
    return [shlex.quote(each) for each in (f"format={options.source_format}", *chosen)]


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names that are not UTF-8
    try:
        if options.command == "convert":
            check_target(options.target, options.format)  # before all files are read
        source_format = options.source_format
        if options.format_options:
            if source_format is None:
                raise ValueError("options of a format need its name, too, such as lerobot")
            source_format = make_format(source_format, options=dict(options.format_options))
        with reading(options.source) as progress:
            files = TransitionFiles(
                options.source,
                options.skip_corrupt,
                channels_last=options.channels_last,
                frame_channels=options.frame_channels,
                format=source_format,
                progress=progress,
            )
            if options.command == "info":
                info(files, options.picture, settings(options))
            else:
                known = {name: getattr(options, name) for name in ("task", "level", "random_return", "expert_return")}
                convert(files, options.target, options.format, known)
    except (ValueError, OSError, ModuleNotFoundError) as error:
        message = f"error: {error}"
        for name, option in OPTIONS.items():
            message = message.replace(name, option)
        print(message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
