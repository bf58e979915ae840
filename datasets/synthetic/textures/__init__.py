"""Striped objects on striped backgrounds, of the same or of other colours, with their masks."""

from synthetic.textures.scene import (
    KINDS,
    TextureConfig,
    TextureScene,
    draw_textures,
)
from synthetic.textures.writer import SPLITS, write_synthetic_textures

__all__ = [
    "KINDS",
    "SPLITS",
    "TextureConfig",
    "TextureScene",
    "draw_textures",
    "write_synthetic_textures",
]
