"""LSP: clusters as make_classification draws them, patches, norm, truncation, linear separability."""

import math

import numpy as np
import pytest

from pst_fast.attacks.base import ATTACKS
from pst_fast.attacks.lsp import SEPARATION, _patch_areas, cluster_centroids, draw_cluster, truncated


def test_centroids_are_distinct_vertices():
    centroids = cluster_centroids(8, 3, seed=5)
    assert np.array_equal(np.unique(np.abs(centroids)), [SEPARATION])
    assert len(np.unique(centroids, axis=0)) == 8


def test_more_classes_than_vertices():
    with pytest.raises(ValueError, match="no 9 vertices"):
        cluster_centroids(9, 3, seed=0)


def test_cluster_has_its_centroid_and_a_mixed_covariance():
    centroid = np.array([10.0, -10.0, 10.0, 10.0])
    points = draw_cluster(centroid, 200_000, (3, 1))
    np.testing.assert_allclose(points.mean(0), centroid, atol=0.02)
    mixing = np.random.default_rng((3, 1)).uniform(-1, 1, (4, 4))
    np.testing.assert_allclose(np.cov(points.T), mixing.T @ mixing, atol=0.05)


def test_truncation_by_hand():
    # The norm is 5, so that 0.1 * 255 stretches it by 5.1: 15.3, -20.4, 0.
    delta = np.array([3.0, -4.0, 0.0]).reshape(1, 1, 1, 3)
    assert truncated(delta, 0.1).ravel().tolist() == [15, -21, 0]


def test_truncation_is_that_of_the_sum():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (4, 8, 8, 3))
    delta = rng.standard_normal((4, 8, 8, 3))
    scaled = delta * (255 / np.sqrt(np.square(delta).sum((1, 2, 3), keepdims=True)))
    expected = np.clip(x + scaled, 0, 255).astype(np.uint8)
    np.testing.assert_array_equal(np.clip(x + truncated(delta, 1.0), 0, 255), expected)


@pytest.mark.parametrize("epsilon", [None, 0.5, 20.0])
def test_norm_before_clamping(epsilon, image_set, make_task):
    data = image_set(40, 32, 32, 10)
    steps = ATTACKS["lsp"]().craft(make_task(data, epsilon=epsilon)).astype(np.int64)
    norms = np.sqrt(np.square(steps).sum((1, 2, 3))) / 255
    expected = 1.304 if epsilon is None else epsilon
    assert np.abs(norms - expected).max() < math.sqrt(3072) / 255


def test_patches_of_eight_pixels_also_at_odd_sizes(image_set, make_task):
    steps = ATTACKS["lsp"]().craft(make_task(image_set(12, 19, 33, 3)))
    for top in range(0, 19, 8):
        for left in range(0, 33, 8):
            patch = steps[:, top : top + 8, left : left + 8]
            assert (patch == patch[:, :1, :1]).all()
    assert (steps[:, 7] != steps[:, 8]).any()


def test_a_linear_probe_separates_the_classes(image_set, make_task):
    data = image_set(2000, 16, 16, 10)
    steps = ATTACKS["lsp"]().craft(make_task(data)).reshape(2000, -1)
    features = np.concatenate([steps.astype(float), np.ones((2000, 1))], axis=1)
    targets = np.eye(10)[data.labels]
    weights = np.linalg.lstsq(features[:1000], targets[:1000], rcond=None)[0]
    predicted = (features[1000:] @ weights).argmax(1)
    assert (predicted == data.labels[1000:]).mean() > 0.8


def test_a_draw_per_sample(image_set, make_task):
    steps = ATTACKS["lsp"]().craft(make_task(image_set(30)))
    assert len(np.unique(steps.reshape(30, -1), axis=0)) == 30


def test_patches_are_truncated_like_their_pixels():
    patterns = np.random.default_rng(0).standard_normal((5, 3, 2, 3))
    pixels = patterns.repeat(8, axis=1).repeat(8, axis=2)[:, :19, :13]
    areas = np.array([[64, 40], [64, 40], [24, 15]])[..., None]
    expected = truncated(pixels, 1.5)
    found = truncated(patterns, 1.5, areas).repeat(8, axis=1).repeat(8, axis=2)[:, :19, :13]
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(_patch_areas(19, 13), areas)
