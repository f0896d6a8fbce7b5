"""Names in the package, and import paths of users' classes."""

from pathlib import Path

import pytest

from rlrep import CURL, TACO, make_objective
from rlrep.objectives import find_objective
from rlrep.registry import find_class, look_up


def test_known_name() -> None:
    assert look_up("fruit", "pear", {"pear": 1}) == 1


@pytest.mark.parametrize(("name", "hint"), [("paer", "did you mean pear?"), ("xyz", "known: melon, pear")])
def test_unknown_name_gets_the_nearest_or_all(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown fruit '{name}': {hint}"):
        look_up("fruit", name, {"pear": 1, "melon": 2})


def test_a_class_by_its_import_path() -> None:
    assert find_objective("rlrep.objectives.curl:CURL") is CURL
    assert find_objective("taco") is TACO


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("rlrep.nowhere:CURL", "there is no module 'rlrep.nowhere'"),
        ("no_such_package.deep.down:CURL", "there is no module 'no_such_package'"),
        ("rlrep.objectives.curl:Curl", "has no class 'Curl': it has .*CURL"),
        ("rlrep.objectives.curl:", "has no class ''"),
        (":CURL", "is not an import path"),
        ("rlrep.replay:ReplayBuffer", "ReplayBuffer is not a subclass of rlrep.objectives.base.Objective"),
        ("rlrep:info_nce", "info_nce is not a subclass"),
        ("tako", "did you mean taco"),
        ("rlrep.objectives.base:Objective", "Objective is not a subclass"),  # the base class computes nothing
        ("rlrep.objectives.spr.SPR", "name your own class with a colon, my_package.my_file:MyClass"),
    ],
)
def test_an_import_path_that_fails_says_which_part(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        find_objective(path)


def test_a_module_that_lacks_a_package_of_its_own_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "needs_more.py").write_text("import a_package_that_is_not_there")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        find_class("objective", "needs_more:Thing", {}, object)


def test_an_unknown_option_gets_the_nearest() -> None:
    with pytest.raises(ValueError, match="unknown option of objective taco: 'horizn': did you mean horizon"):
        make_objective("taco", None, None, horizn=3)  # type: ignore[arg-type]
