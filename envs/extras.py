"""What users do about a package that is missing; the words are those of rlrep/extras.py."""


def install(extra: str) -> str:
    """The command that installs one of this project's extras, which is on no package index."""
    return f"run `pip install '.[{extra}]'` in the folder of rlrep's pyproject.toml"
