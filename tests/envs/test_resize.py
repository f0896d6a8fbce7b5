import numpy as np
import pytest

from rlrep.envs.resize import AreaResize


@pytest.mark.parametrize(("height", "width"), [(5, 5), (8, 8), (12, 9), (20, 20)])
def test_each_new_pixel_is_the_mean_of_what_it_covers(height, width):
    picture = np.random.default_rng(0).integers(256, size=(3, 12, 16), dtype=np.uint8)
    fine = picture.repeat(height, axis=1).repeat(width, axis=2)
    expected = fine.reshape(3, height, 12, width, 16).mean((2, 4))
    np.testing.assert_allclose(AreaResize(12, 16, height, width)(picture), expected, atol=0.501)


def test_a_picture_of_the_right_size_stays_what_it_is():
    picture = np.random.default_rng(0).integers(256, size=(3, 12, 16), dtype=np.uint8)
    np.testing.assert_array_equal(AreaResize(12, 16, 12, 16)(picture), picture)
