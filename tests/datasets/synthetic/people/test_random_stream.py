from __future__ import annotations

import numpy as np
import pytest

from synthetic.people.random_stream import RandomStream


def test_matches_the_published_output_of_the_mersenne_twister():
    # First numbers of mt19937ar.out, the reference output of Matsumoto and Nishimura, for
    # init_by_array({0x123, 0x234, 0x345, 0x456}); a double takes 27 + 26 bits of two of them.
    words = [1067595299, 955945823, 477289528, 4107218783]
    doubles = [((a >> 5) * 2**26 + (b >> 6)) / 2**53 for a, b in (words[:2], words[2:])]
    rng = RandomStream(0x123, 0x234, 0x345, 0x456)
    assert [rng.uniform(), rng.uniform()] == doubles


def test_grain_uses_the_bytes_of_the_same_words():
    words = np.array([1067595299, 955945823, 477289528, 4107218783], dtype="<u4")
    data = words.view(np.uint8).astype(int)
    grain = RandomStream(0x123, 0x234, 0x345, 0x456).grain(2, 4)
    assert np.array_equal(grain.ravel() * 256, data[:8] - data[8:])


def test_another_name_gives_another_stream():
    names = [(0, 1, 2), (0, 1, 3), (0, 2, 1), (1, 1, 2)]
    assert len({RandomStream(*name).uniform() for name in names}) == len(names)


def test_ranges():
    rng = RandomStream(5)
    integers = {rng.integer(2, 4) for _ in range(100)}
    assert integers == {2, 3, 4}
    assert {rng.sign() for _ in range(50)} == {-1.0, 1.0}
    numbers = [rng.uniform(-3.0, 5.0) for _ in range(200)]
    assert -3.0 <= min(numbers) < -2.0 and 4.0 < max(numbers) < 5.0
    array = rng.array(20, 30)
    assert array.shape == (20, 30) and array.dtype == np.float32
    assert 0.0 <= array.min() and array.max() <= 1.0


def test_weighted_follows_the_weights():
    rng = RandomStream(9)
    counts = np.bincount([rng.weighted((0.0, 1.0, 3.0)) for _ in range(2000)], minlength=3)
    assert counts[0] == 0
    assert counts[2] / counts[1] == pytest.approx(3.0, rel=0.2)


@pytest.mark.parametrize("number", [-1, 2**32])
def test_a_seed_out_of_range_is_named(number):
    with pytest.raises(ValueError, match=rf"\[0, 2\*\*32\), got {number}"):
        RandomStream(0, number)
