"""What users do about a package that is missing."""


def install(extra: str) -> str:
    """The command that installs one of this project's extras, which is on no package index.

    `envs` and `experiments`, which may be all that can be imported, have the same words.
    """
    return f"run `pip install '.[{extra}]'` in the folder of rlrep's pyproject.toml"
