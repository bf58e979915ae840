"""Synthetic scenes in PASCAL in Detail's layout: people, things and surroundings, all labelled."""

from synthetic.in_detail.scene import DetailScene, draw_detail_scene
from synthetic.in_detail.writer import write_synthetic_in_detail

__all__ = ["DetailScene", "draw_detail_scene", "write_synthetic_in_detail"]
