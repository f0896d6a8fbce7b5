import pytest

from rlrep.registry import look_up


def test_known_name() -> None:
    assert look_up("fruit", "pear", {"pear": 1}) == 1


@pytest.mark.parametrize(("name", "hint"), [("paer", "did you mean pear?"), ("xyz", "known: melon, pear")])
def test_unknown_name_gets_the_nearest_or_all(name: str, hint: str) -> None:
    with pytest.raises(ValueError, match=rf"unknown fruit '{name}': {hint}"):
        look_up("fruit", name, {"pear": 1, "melon": 2})
