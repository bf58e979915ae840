from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from d2_multitask.patch_graph.refine import guided_filter, refine_labels, stretch_labels


def slow_guided_filter(
    guide: np.ndarray, values: np.ndarray, radius: int, epsilon: float
) -> np.ndarray:
    """Window by window, a ridge regression of the values on the colours; (H, W) values."""
    height, width = values.shape

    def window(y: int, x: int) -> tuple[slice, slice]:
        rows = slice(max(0, y - radius), y + radius + 1)
        return rows, slice(max(0, x - radius), x + radius + 1)

    slopes, intercepts = np.zeros((height, width, 3)), np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        colors = guide[window(y, x)].reshape(-1, 3)
        inside = values[window(y, x)].reshape(-1)
        centred = colors - colors.mean(0)
        penalised = centred.T @ centred / len(colors) + epsilon * np.eye(3)
        moment = centred.T @ (inside - inside.mean()) / len(colors)
        slopes[y, x] = np.linalg.solve(penalised, moment)
        intercepts[y, x] = inside.mean() - slopes[y, x] @ colors.mean(0)
    result = np.zeros((height, width))
    for y, x in np.ndindex(height, width):
        slope = slopes[window(y, x)].reshape(-1, 3).mean(0)
        result[y, x] = slope @ guide[y, x] + intercepts[window(y, x)].mean()
    return result


@pytest.mark.parametrize(("radius", "epsilon"), [(1, 1e-3), (2, 0.1), (9, 1e-2)])
def test_it_is_a_regression_in_each_window(radius, epsilon) -> None:
    generator = np.random.default_rng(0)
    guide, values = generator.random((7, 9, 3)), generator.random((7, 9))
    expected = slow_guided_filter(guide, values, radius, epsilon)
    found = guided_filter(guide, values, radius, epsilon)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_channels_are_filtered_each_by_itself() -> None:
    generator = np.random.default_rng(0)
    guide, values = generator.random((8, 6, 3)), generator.random((8, 6, 19))
    together = guided_filter(guide, values, 2, 0.01)
    for channel in (0, 7, 8, 18):
        alone = guided_filter(guide, values[..., channel], 2, 0.01)
        np.testing.assert_allclose(together[..., channel], alone, atol=1e-6)


def test_a_flat_guide_smooths_twice() -> None:
    values = np.zeros((9, 9))
    values[4, 4] = 1
    found = guided_filter(np.full((9, 9, 3), 0.5), values, 1, 0.01)
    # a box of three, twice: 1 2 3 2 1 along each axis, over 9
    expected = np.outer([0, 0, 1, 2, 3, 2, 1, 0, 0], [0, 0, 1, 2, 3, 2, 1, 0, 0]) / 81
    np.testing.assert_allclose(found, expected, atol=1e-6)


def image_with_an_edge() -> np.ndarray:
    """A bright object whose left edge is at column 19 of 48, not at a patch's border."""
    generator = np.random.default_rng(0)
    image = np.full((32, 48, 3), 60.0)
    image[:, 19:] = (200, 120, 90)
    return (image + generator.normal(0, 3, image.shape)).astype(np.uint8)


def test_labels_follow_the_edge() -> None:
    patches = np.array([[4, 4, 9, 9, 9, 9]] * 4)  # the border between them is at column 16
    labels = refine_labels(patches, image_with_an_edge())
    expected = np.where(np.arange(48) < 19, 4, 9)
    assert labels.dtype == np.int64 and set(np.unique(labels)) == {4, 9}
    assert (labels == expected).mean() > 0.99
    assert (stretch_labels(patches, (32, 48)) == expected).mean() < 0.95


def test_subsampling_changes_little() -> None:
    image = np.kron(image_with_an_edge(), np.ones((4, 4, 1), np.uint8))
    members = np.zeros((128, 192, 5))
    members[:, :64, 0] = members[:, 64:, 3] = 1
    exact = guided_filter(image / 255, members, 32, 1e-4)
    fast = guided_filter(image / 255, members, 32, 1e-4, subsampling=4)
    assert fast.shape == exact.shape and not np.array_equal(fast, exact)
    assert np.abs(fast - exact).mean() < 0.02
    assert (fast.argmax(2) == exact.argmax(2)).mean() > 0.99


def test_a_wide_window_and_a_large_epsilon_do_not_follow_it() -> None:
    patches = np.array([[4, 4, 9, 9, 9, 9]] * 4)
    labels = refine_labels(patches, image_with_an_edge(), epsilon=10.0)
    assert (labels == np.where(np.arange(48) < 16, 4, 9)).mean() > 0.99


@pytest.mark.parametrize("num_labels", [3, 6, 60])
@pytest.mark.parametrize("image_hw", [(300, 400), (217, 205)])
def test_photographs_of_any_size_with_many_labels(image_hw, num_labels) -> None:
    patch_labels = np.arange(9 * 12).reshape(9, 12) % num_labels
    image = np.random.default_rng(0).integers(0, 256, (*image_hw, 3)).astype(np.uint8)
    labels = refine_labels(patch_labels, image)
    assert labels.shape == image_hw
    assert set(np.unique(labels)) <= set(range(num_labels))


def test_the_largest_membership_in_the_memory_of_a_few_planes() -> None:
    patch_labels = np.random.default_rng(0).integers(-5, 30, (9, 12))
    image = np.random.default_rng(1).integers(0, 256, (270, 360, 3)).astype(np.uint8)
    names = np.unique(patch_labels)
    members = stretch_labels(patch_labels, (270, 360))[..., None] == names
    filtered = guided_filter(image / 255, members, 30, 1e-4, subsampling=3)
    tracemalloc.start()
    labels = refine_labels(patch_labels, image)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    np.testing.assert_array_equal(labels, names[filtered.argmax(2)])
    assert peak < 0.7 * filtered.nbytes


def test_one_label_stays_one() -> None:
    labels = refine_labels(np.full((2, 2), 3), np.zeros((10, 12, 3), np.uint8))
    assert (labels == 3).all() and labels.shape == (10, 12)


def test_patches_are_stretched_over_any_size() -> None:
    labels = stretch_labels(np.array([[1, 2], [3, 4]]), (3, 5))
    assert labels.tolist() == [[1, 1, 2, 2, 2], [3, 3, 4, 4, 4], [3, 3, 4, 4, 4]]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8), np.uint8), r"found an image \(8, 8\) uint8"),
        (np.zeros((8, 8, 3)), r"\(8, 8, 3\) float64, expected \(H, W, 3\) uint8"),
        (np.zeros((1, 8, 3), np.uint8), "found 1x8 pixels .* for 2x2 patches"),
    ],
)
def test_bad_images_are_refused(image, message) -> None:
    with pytest.raises(ValueError, match=message):
        refine_labels(np.array([[0, 1], [0, 1]]), image)


@pytest.mark.parametrize(
    ("shape", "radius", "epsilon", "message"),
    [
        ((4, 5), 1, 0.1, r"found a guide \(4, 4, 3\) and values \(4, 5\)"),
        ((4, 4), 0, 0.1, "radius=0, epsilon=0.1, subsampling=1"),
        ((4, 4), 1, 0.0, "epsilon=0.0"),
    ],
)
def test_bad_filters_are_refused(shape, radius, epsilon, message) -> None:
    with pytest.raises(ValueError, match=message):
        guided_filter(np.zeros((4, 4, 3)), np.zeros(shape), radius, epsilon)
