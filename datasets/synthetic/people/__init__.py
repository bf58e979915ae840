"""A dataset of synthetic people: drawn from a seed, with exact labels for every task."""

from synthetic.people.scene import Scene, draw_scene
from synthetic.people.scene_config import SceneConfig
from synthetic.people.writer import write_synthetic_people

__all__ = ["Scene", "SceneConfig", "draw_scene", "write_synthetic_people"]
