"""Boundary and occlusion metrics."""
