"""Comparisons of networks, of tasks and of patch relations."""
