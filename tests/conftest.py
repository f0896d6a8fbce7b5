"""Fixtures and hooks of all tests."""

import random

import numpy as np
import pytest
import torch


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda") and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")


@pytest.fixture(autouse=True)
def same_seed() -> None:
    """Gives each test the same random numbers, whatever ran before it, and in any worker."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
