"""The command that installs a missing package."""

import json
import shlex
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from urllib.parse import unquote, urlparse


def install(extra: str) -> str:
    """The command that installs one of this project's extras, from any folder: it names the project's origin."""
    return f"run `pip install {_requirement(extra)}`"


def _requirement(extra: str) -> str:
    """The requirement for pip, quoted for a shell."""
    clone = Path(__file__).resolve().parents[1]
    if (clone / "pyproject.toml").is_file():
        return f"-e {shlex.quote(f'{clone}[{extra}]')}"
    try:
        noted = json.loads(distribution("rlrep").read_text("direct_url.json") or "{}")  # pip's note, by PEP 610
    except (PackageNotFoundError, ValueError):
        noted = {}
    url, version = noted.get("url"), noted.get("vcs_info")
    if url is None:
        return f"'rlrep[{extra}]'"
    if version is not None:
        url = f"{version['vcs']}+{url}@{version['commit_id']}"
    elif "dir_info" in noted:
        return shlex.quote(f"{unquote(urlparse(url).path)}[{extra}]")
    return shlex.quote(f"rlrep[{extra}] @ {url}")
