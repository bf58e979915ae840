"""Every number that decides how hard the pictures are, in one place."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class SceneConfig:
    """Settings of the synthetic scenes. Probabilities are in [0, 1], lengths in pixels.

    Attributes:
        short_side: range of the image's shorter side.
        aspect_ratio: range of longer side / shorter side.
        portrait_probability: of an image that is higher than wide.
        people_weights: weights of 0, 1, 2, ... people in an image.
        stature_range: stature of an upright adult as a fraction of the image's height.
        small_stature_limit: upper end of the statures called small.
        small_probability: of a small person; the other people are larger than the limit.
        child_probability: of a child (0.55-0.8 of an adult's stature).
        near_probability: of standing close to another person of the image, which makes overlaps.
        cut_bottom_probability: of a large person whose legs are below the image.
        cut_side_probability: of a person partly beyond the left or right edge.
        pose_weights: weights of the poses in ``poses.POSES``.
        view_weights: weights of seeing a person from the front, the back, the side, anywhere.
        camera_pitch: largest angle in degrees by which the camera looks down.
        roll: largest tilt of an ordinary person in the image plane, in degrees.
        tilted_probability: of a strongly tilted person (up to ``tilted_roll`` degrees).
        tilted_roll: see ``tilted_probability``.
        camouflage_probability: of clothes that resemble the background.
        plain_probability: of a piece of clothing without a pattern.
        cloth_saturation: range of the saturation of clothes that are neither black nor white.
        background_contrast: how strong the background's colours are: 1 as painted, 0 plain grey.
            Things in front of it keep theirs.
        distractors: range of the number of things behind the people.
        occluder_probability: of one thing (or two) between or before the people.
        crowd_probability: of a distant crowd, annotated as one ``iscrowd`` region.
        crowd_people: range of the number of people in such a crowd.
        min_visible_pixels: people with fewer visible pixels are not drawn.
        min_visible_fraction: people of which less is visible are not drawn.
        noise: range of the amplitude of the pixel noise, in grey levels.
        blur_probability: of a slight blur (3 x 3 pixels).
        gain: range of the brightness factor of the whole image.
    """

    short_side: tuple[int, int] = (160, 208)
    aspect_ratio: tuple[float, float] = (1.0, 1.35)
    portrait_probability: float = 0.4
    people_weights: tuple[float, ...] = (0.03, 0.35, 0.38, 0.18, 0.06)
    stature_range: tuple[float, float] = (0.4, 0.95)
    small_stature_limit: float = 0.6
    small_probability: float = 0.1
    child_probability: float = 0.03
    near_probability: float = 0.16
    cut_bottom_probability: float = 0.06
    cut_side_probability: float = 0.06
    pose_weights: tuple[float, ...] = (0.55, 0.3, 0.03, 0.06, 0.03, 0.01, 0.02)
    view_weights: tuple[float, ...] = (0.86, 0.04, 0.06, 0.04)
    camera_pitch: float = 14.0
    roll: float = 5.0
    tilted_probability: float = 0.02
    tilted_roll: float = 35.0
    camouflage_probability: float = 0.01
    plain_probability: float = 0.9
    cloth_saturation: tuple[float, float] = (0.5, 0.95)
    background_contrast: float = 0.5
    distractors: tuple[int, int] = (1, 4)
    occluder_probability: float = 0.08
    crowd_probability: float = 0.02
    crowd_people: tuple[int, int] = (9, 18)
    min_visible_pixels: int = 60
    min_visible_fraction: float = 0.3
    noise: tuple[float, float] = (1.0, 6.0)
    blur_probability: float = 0.6
    gain: tuple[float, float] = (0.75, 1.2)

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_probability") and not 0.0 <= value <= 1.0:
                raise ValueError(f"SceneConfig.{field.name}: expected 0 to 1, got {value}")
            if field.name.endswith("_weights") and not (min(value) >= 0.0 and sum(value) > 0.0):
                raise ValueError(
                    f"SceneConfig.{field.name}: expected weights >= 0 with a sum > 0, got {value}"
                )
        for name, number in (("pose_weights", 7), ("view_weights", 4)):
            if len(getattr(self, name)) != number:
                raise ValueError(
                    f"SceneConfig.{name}: expected {number} weights, got {getattr(self, name)}"
                )
        if not 32 <= self.short_side[0] <= self.short_side[1]:
            raise ValueError(
                "SceneConfig.short_side: expected (low, high) with 32 <= low <= high, "
                f"got {self.short_side}"
            )
        if not 1.0 <= self.aspect_ratio[0] <= self.aspect_ratio[1]:
            raise ValueError(
                "SceneConfig.aspect_ratio: expected (low, high) with 1 <= low <= high, "
                f"got {self.aspect_ratio}"
            )
