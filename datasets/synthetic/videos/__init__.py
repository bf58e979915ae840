"""Synthetic videos: figures that walk, cross and cover each other, with their true identities."""

from synthetic.videos.video import VideoConfig, draw_video
from synthetic.videos.writer import write_synthetic_videos

__all__ = ["VideoConfig", "draw_video", "write_synthetic_videos"]
