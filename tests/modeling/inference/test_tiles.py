from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from d2_multitask.modeling.inference.tiles import TiledNetwork, tile_weight
from d2_multitask.targets.tiles import tile_starts


class Brightness(nn.Module):
    """Answers each pixel from itself alone, so that tiles must not be seen in the result."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[tuple[int, ...]] = []

    def forward(self, batched_inputs: list[dict[str, Any]], tasks: Any = None) -> list[Any]:
        self.sizes += [tuple(x["image"].shape[-2:]) for x in batched_inputs]
        images = [x["image"].float() / 255 for x in batched_inputs]
        return [{"foreground": one.mean(0), "sem_seg": one[:2]} for one in images]


def random_image(height: int, width: int) -> Tensor:
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8)


@given(
    side=st.integers(1, 300),
    tile=st.integers(1, 300),
    overlap=st.sampled_from([0, 0.1, 0.25, 0.5, 0.9]),
)
def test_tiles_cover_everything_and_overlap(side, tile, overlap):
    tile = min(side, tile)
    starts = tile_starts(side, tile, overlap)
    assert starts[0] == 0 and starts[-1] == side - tile
    steps = [b - a for a, b in zip(starts, starts[1:], strict=False)]
    # Half a pixel of rounding at each end.
    assert all(0 < step <= max(tile * (1 - overlap), 1) + 1 for step in steps)
    assert max(steps, default=0) <= tile


def test_pointwise_answers_are_not_changed():
    network = Brightness()
    image = random_image(50, 70)
    result = TiledNetwork(network, (32, 32), 0.25, 4)([{"image": image}])[0]
    expected = network([{"image": image}])[0]
    for name, values in expected.items():
        torch.testing.assert_close(result[name], values)
    assert network.sizes[:-1] == [(32, 32)] * 6  # 2 x 3


def test_blending_by_hand():
    """Two tiles of 4 pixels on 6 share 2, in which one fades out and the other in."""

    class Count(nn.Module):
        calls = 0

        def forward(self, batched_inputs):
            self.calls += 1
            return [{"foreground": torch.full((1, 4), float(self.calls))} for _ in batched_inputs]

    weight = tile_weight((1, 4), 0.5)[0]
    assert (weight / weight[1]).tolist() == pytest.approx([1 / 3, 1, 1, 1 / 3])
    found = TiledNetwork(Count(), (1, 4), 0.5, 1)([{"image": random_image(1, 6)}])[0]
    ramp = [0.25, 0.75, 0.75, 0.25]
    expected = [1, 1]
    expected += [
        (1 * ramp[2] + 2 * ramp[0]) / (ramp[2] + ramp[0]),
        (1 * ramp[3] + 2 * ramp[1]) / (ramp[3] + ramp[1]),
    ]
    expected += [2, 2]
    assert found["foreground"][0].tolist() == pytest.approx(expected)


def test_output_size_and_small_images():
    network = Brightness()
    tiled = TiledNetwork(network, (32, 32), 0.25)
    result = tiled([{"image": random_image(40, 64), "height": 20, "width": 32}])[0]
    assert result["foreground"].shape == (20, 32) and result["sem_seg"].shape == (2, 20, 32)
    network.sizes.clear()
    tiled([{"image": random_image(30, 32)}])
    assert network.sizes == [(30, 32)]
    network.sizes.clear()
    tiled([{"image": random_image(30, 40)}])  # one side is larger
    assert network.sizes == [(30, 32)] * 2


def test_mistakes():
    for arguments, message in (
        (((0, 32), 0.25), "TEST.TILES.SIZE"),
        (((32, 32), 1.0), "TEST.TILES.OVERLAP"),
        (((32, 32), 0.5, 0), "TEST.TILES.BATCH_SIZE"),
    ):
        with pytest.raises(ValueError, match=message):
            TiledNetwork(Brightness(), *arguments)
    tiled = TiledNetwork(Brightness(), (32, 32), 0.25)
    with pytest.raises(ValueError, match="shortest_edge"):
        tiled([{"image": random_image(64, 64), "window": (0, 0, 60, 60)}])

    class Objects(nn.Module):
        def forward(self, batched_inputs):
            return [{"instances": object()} for _ in batched_inputs]

    with pytest.raises(ValueError, match="found the result 'instances'.*TEST.TASKS"):
        TiledNetwork(Objects(), (32, 32), 0.25)([{"image": random_image(64, 64)}])
