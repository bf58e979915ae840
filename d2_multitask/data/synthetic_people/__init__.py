"""A data set of synthetic people: drawn from a seed, with exact labels for every task."""

from d2_multitask.data.synthetic_people.scene import Scene, draw_scene
from d2_multitask.data.synthetic_people.scene_config import SceneConfig
from d2_multitask.data.synthetic_people.writer import write_synthetic_people

__all__ = ["Scene", "SceneConfig", "draw_scene", "write_synthetic_people"]
