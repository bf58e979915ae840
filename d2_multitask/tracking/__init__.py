"""Identities that last from frame to frame, and smooth keypoints: NumPy and SciPy."""

from __future__ import annotations

from d2_multitask.tracking.tracker import Tracker, TrackerSettings

__all__ = ["Tracker", "TrackerSettings"]
