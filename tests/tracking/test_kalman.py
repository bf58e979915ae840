"""The filter against ordinary matrices of Kalman's equations, with ByteTrack's numbers."""

from __future__ import annotations

import numpy as np

from d2_multitask.tracking import kalman


def dense_filter(boxes):
    """A track through boxes (frames, 4), None = not seen; returns its means and covariances."""
    move, see = np.eye(8) + np.eye(8, k=4), np.eye(4, 8)
    position, velocity = 1 / 20, 1 / 160
    mean = cov = None
    for box in boxes:
        x0, y0, x1, y1 = box
        value = np.array([(x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0])
        if mean is None:
            mean = np.concatenate((value, np.zeros(4)))
            std = np.repeat([2 * position, 10 * velocity], 4) * value[3]
            cov = np.diag(std**2)
        else:
            std = np.repeat([position, velocity], 4) * mean[3]
            mean, cov = move @ mean, move @ cov @ move.T + np.diag(std**2)
            noise = np.eye(4) * (position * mean[3]) ** 2
            gain = cov @ see.T @ np.linalg.inv(see @ cov @ see.T + noise)
            mean, cov = mean + gain @ (value - see @ mean), cov - gain @ see @ cov
    return mean, cov


def test_same_as_with_matrices():
    rng = np.random.default_rng(0)
    low = rng.uniform(0, 50, (6, 3, 2))
    boxes = np.concatenate((low, low + rng.uniform(20, 60, (6, 3, 2))), -1)
    motion = kalman.start(boxes[0])
    for frame in boxes[1:]:
        motion = kalman.update(kalman.predict(motion, np.zeros(3, bool)), frame)
    for track in range(3):
        mean, cov = dense_filter(boxes[:, track])
        np.testing.assert_allclose(motion.mean[track].T.ravel(), mean, rtol=1e-9)
        blocks = np.stack([cov[[i, i, i + 4], [i, i + 4, i + 4]] for i in range(4)])
        np.testing.assert_allclose(motion.cov[track], blocks, rtol=1e-9)


def test_what_is_not_seen_moves_on_at_its_size():
    motion = kalman.start(np.array([[0.0, 0, 10, 20]]))
    motion.mean[0, :, 1] = 2, 0, 3, -1
    resting, seen = (kalman.predict(motion, np.array([flag])) for flag in (True, False))
    assert resting.mean[0, :, 0].tolist() == [7, 10, 10, 20]
    assert seen.mean[0, :, 0].tolist() == [7, 10, 13, 19]
    assert (seen.cov[..., 0] > motion.cov[..., 0]).all()
