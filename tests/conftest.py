"""What all tests share."""

import random

import numpy as np
import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """A test sees the same random numbers whichever ran before it, in the same worker or another."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
