"""A study of drawn textures with an autoencoder that computes in milliseconds."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mae_support import small_mae
from studies.relations.images import LabelledImage
from studies.relations.relations import Measuring
from studies.relations.study import RelationStudy
from synthetic.textures import write_synthetic_textures

NAMES = ("distance", "color", "ridge")


@pytest.fixture(scope="session")
def textures(tmp_path_factory) -> list[LabelledImage]:
    """Four images of other palettes."""
    root = tmp_path_factory.mktemp("textures")
    write_synthetic_textures(root, "other_palette", "test", 4)
    folder = root / "synthetic_textures" / "other_palette" / "test"
    files = sorted((folder / "images").iterdir())
    return [LabelledImage(f.stem, f, folder / "masks" / f.name) for f in files]


@pytest.fixture(scope="module")
def make_study(tmp_path_factory) -> Callable[[], RelationStudy]:
    """A study in one folder, made as often as wanted."""
    folder = tmp_path_factory.mktemp("study")

    def make() -> RelationStudy:
        model = small_mae(64, 16).eval()
        # The same weights: its difference is exactly 0.
        measuring = Measuring(model, 40, 0, folder / "relations", {"untrained": model})
        return RelationStudy(measuring, folder, long_side=64, relations=NAMES)

    return make
