"""Commands that train, evaluate and compare: `python -m experiments.train --help`."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType

_ROOT = Path(__file__).resolve().parent.parent
_PACKAGES = ("agents", "envs", "rlrep")
_EXTRA = ("hydra", "gymnasium", "dm_control", "av", "matplotlib", "tqdm")


def _obstacle() -> str | None:
    """What keeps the commands from starting, with what to do; None if nothing does."""
    for name in _PACKAGES:
        spec = find_spec(name)
        found = None if spec is None else spec.origin or next(iter(spec.submodule_search_locations or ()), None)
        if found is None or not Path(found).resolve().is_relative_to(_ROOT / name):
            where = "it is missing" if found is None else f"{found} was found instead"
            return (
                f"the commands need the package {name} in {_ROOT}, and {where}: start them in another folder, or "
                f"rename the file or folder that has its name"
            )
    missing = [name for name in _EXTRA if find_spec(name) is None]
    if missing:
        return (
            f"the commands need {' and '.join(missing)}, which the extra `train` brings: run "
            f"`pip install '.[train]'` in the folder of rlrep's pyproject.toml"
        )
    return None


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Ctrl-C needs no traceback, which Python shows otherwise while modules are imported."""
    if issubclass(kind, KeyboardInterrupt):
        print("stopped", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


if sys.argv[:1] == ["-m"]:  # as `python -m` has it while it looks for the module
    sys.excepthook = _report
    if obstacle := _obstacle():
        sys.exit(f"error: {obstacle}")
