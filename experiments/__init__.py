"""Commands that train, evaluate and compare: `python -m rlrep.experiments.train --help`."""

import sys
from importlib.util import find_spec
from types import TracebackType

from rlrep.extras import install

if __name__ != "rlrep.experiments":
    sys.exit("error: the commands are rlrep's: python -m rlrep.experiments.train, and so on")

_EXTRA = ("hydra", "gymnasium", "dm_control", "av", "matplotlib", "tqdm")


def _obstacle() -> str | None:
    """The reason why the commands cannot start, with advice; None if they can."""
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        return f"the commands need {' and '.join(missing)}, which the extra `train` brings: {install('train')}"
    return None


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Hides the traceback of Ctrl-C, which Python would show while modules are imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # the value during `python -m`, while it searches the module
    sys.excepthook = _report
    if obstacle := _obstacle():
        sys.exit(f"error: {obstacle}")
