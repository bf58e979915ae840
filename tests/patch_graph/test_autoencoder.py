from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from d2_multitask.modeling.mae import MAEEncoder
from d2_multitask.patch_graph.autoencoder import (
    ACTIVATION_BYTES,
    MAX_BATCH_SIZE,
    ErrorMeter,
    check_autoencoder,
    default_batch_size,
    is_flat,
    patch_grid_of,
)
from mae_support import small_mae
from patch_graph_support import FakeAutoencoder, numbered_image


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(3, 32, 24, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def visible() -> torch.Tensor:
    """Nine sets of four sizes, not in the order of their sizes."""
    noise = torch.rand(9, 12, generator=torch.Generator().manual_seed(1))
    counts = torch.tensor([3, 1, 8, 3, 1, 2, 8, 3, 2])
    return noise.argsort(1).argsort(1) < counts[:, None]


def test_errors_are_those_of_one_set_after_the_other(image, visible) -> None:
    model = small_mae(32).eval()
    with torch.no_grad():
        expected = torch.cat([model.reconstruct(image[None], v[None]).error for v in visible])
    for batch_size in (None, 1, 2, 100):
        meter = ErrorMeter(model, image, batch_size=batch_size)
        torch.testing.assert_close(meter.errors(visible), expected, rtol=1e-4, atol=1e-6)
        assert meter.passes == 9 and meter.seconds > 0


def test_half_precision_changes_little_and_returns_float32(image, visible) -> None:
    model = small_mae(32).eval()
    exact = ErrorMeter(model, image).errors(visible)
    mixed = ErrorMeter(model, image, dtype=torch.bfloat16).errors(visible)
    assert mixed.dtype == torch.float32 and not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0.05, atol=0.01)


def test_the_errors_may_be_used_with_gradients(image, visible) -> None:
    errors = ErrorMeter(small_mae(32).eval(), image).errors(visible)
    scale = torch.ones((), requires_grad=True)
    (scale * errors).sum().backward()
    assert scale.grad is not None


def test_batches_hold_sets_of_similar_size() -> None:
    model = FakeAutoencoder(lambda visible, _: visible)
    visible = torch.tensor([[1, 0, 0, 0], [1, 1, 1, 0], [0, 1, 0, 0], [0, 1, 1, 1]]).bool()
    errors = ErrorMeter(model, numbered_image((2, 2)), batch_size=2).errors(visible)
    assert [call.sum(1).tolist() for call in model.calls] == [[1, 1], [3, 3]]
    assert torch.equal(errors.bool(), visible)


def test_batch_size_follows_from_the_largest_tensor() -> None:
    base = SimpleNamespace(
        encoder=SimpleNamespace(embed_dim=768),
        decoder=SimpleNamespace(mask_token=torch.zeros(1, 1, 512)),
    )
    # ViT-B's decoder: 512 channels, 2048 in the hidden layer, 197 tokens
    size = default_batch_size(base, 196, torch.device("cpu"))
    assert size == ACTIVATION_BYTES["cpu"] // (197 * 2048 * 4) == 15
    assert default_batch_size(small_mae(), 16, torch.device("cpu")) == MAX_BATCH_SIZE
    assert default_batch_size(object(), 10**6, torch.device("cpu")) == 1


@pytest.mark.parametrize(
    "model",
    [MAEEncoder(image_size=16, embed_dim=16, depth=1, num_heads=1, patch_size=8), object()],
)
def test_a_model_without_decoder_is_refused(model) -> None:
    with pytest.raises(ValueError, match=f"{type(model).__name__} without a decoder"):
        check_autoencoder(model)


def test_an_empty_decoder_is_none() -> None:
    model = FakeAutoencoder(lambda visible, _: visible)
    model.decoder = None
    with pytest.raises(ValueError, match="without a decoder"):
        ErrorMeter(model, numbered_image((2, 2)))


def test_normalised_pixels_are_warned_of() -> None:
    with pytest.warns(UserWarning, match="norm_pix_loss.*does not see flat areas"):
        check_autoencoder(small_mae(norm_pix_loss=True))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((3, 8, 24), "found 24x8 pixels .* at least 2x2 patches of 8"),
        ((3, 20, 24), "found 24x20 pixels .* multiples of the patch's side 8"),
        ((1, 3, 16, 16), r"found a tensor \(1, 3, 16, 16\), expected \(3, H, W\)"),
    ],
)
def test_images_that_do_not_fit(shape, message) -> None:
    with pytest.raises(ValueError, match=message):
        patch_grid_of(torch.zeros(shape), 8)


def test_grid_is_height_by_width() -> None:
    assert patch_grid_of(torch.zeros(3, 32, 24), 8) == (4, 3)


def test_batch_size_zero_is_refused() -> None:
    model = FakeAutoencoder(lambda visible, _: visible)
    with pytest.raises(ValueError, match="found 0"):
        ErrorMeter(model, numbered_image((2, 2)), batch_size=0)


def test_flat_images() -> None:
    image = torch.zeros(3, 8, 8)
    image[1] = 5.0  # channels may differ from each other
    assert is_flat(image)
    image[2, 3, 3] = 0.5
    assert not is_flat(image)
