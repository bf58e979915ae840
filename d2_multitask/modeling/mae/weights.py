"""Public MAE weights -> tensors that fit a network of ours: names, patch size, grid of positions.

Loading (`d2_multitask.checkpoint`) asks a module that has a method ``adapt_weights`` to translate
the file's tensors first; here is what such a method calls. The command line
``tools/convert_mae_weights.py`` calls the same.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.checkpoint.adapting import AdaptedWeights
from d2_multitask.checkpoint.mae_names import (
    TranslatedWeights,
    is_decoder_name,
    is_encoder_name,
    to_authors_names,
)
from d2_multitask.modeling.mae.position_embedding import infer_grid, resize_position_embedding

LICENSE_NOTE = (
    "The MAE weights of Meta's authors are licensed CC BY-NC 4.0 (no commercial use), also where a "
    "copy of them is published under another label. What is converted or trained from them is "
    "bound by it."
)

# Below this share of the encoder's tensors, a file is of another network.
MIN_ENCODER_SHARE = 0.9

_KERNEL = "patch_embed.proj.weight"
_POSITIONS = ("pos_embed", "decoder_pos_embed")


def adapt_mae_weights(
    module: nn.Module,
    weights: dict[str, Tensor],
    file: str,
    *,
    encoder_prefix: str,
    decoder_prefix: str | None,
    require_decoder: bool = False,
    fresh_decoder_key: str = "MODEL.MAE.REQUIRE_DECODER_WEIGHTS to False",
) -> AdaptedWeights | None:
    """Translate a file's MAE to a module's names and shapes.

    Args:
        module: gets the weights; below ``encoder_prefix`` it has the authors' names of the encoder
            (more, such as a neck, or fewer, such as no class token, are allowed), below
            ``decoder_prefix`` those of the decoder.
        weights: as they stand in the file; not changed.
        file: for messages.
        encoder_prefix: "" or something like "encoder.".
        decoder_prefix: ``None`` for a module without a decoder; a decoder in the file is unused.
        require_decoder: refuse files without a decoder.
        fresh_decoder_key: what to set to train without that, for the message.

    Returns:
        The tensors under the module's names, or ``None`` if the file holds no MAE.

    Raises:
        ValueError: fewer than nine tenths of the encoder's tensors find a value of their shape, or
            fewer of the file's blocks a place; or the file has no decoder and one is required.
    """
    translated = to_authors_names(weights, file)
    if translated is None:
        return None
    if require_decoder and not translated.has_decoder:
        raise ValueError(
            f"{file} holds an MAE's encoder without a decoder (found {describe(translated)}); "
            "the decoder would begin with random numbers. Take a file with a decoder "
            "(mae_pretrain_..._full or mae_visualize_...), or set "
            f"{fresh_decoder_key} to train a fresh one"
        )
    wanted = _wanted(module, encoder_prefix, decoder_prefix)
    mode = getattr(getattr(module, "encoder", module), "positions", None)
    resized = fit_to_shapes(
        translated,
        {name: tuple(value.shape) for name, value in wanted.items()},
        _grids(module, wanted),
        mode.mode if mode is not None else "bicubic",
    )
    _check_encoder(translated, wanted, file)
    prefixes = {True: decoder_prefix, False: encoder_prefix}
    result = AdaptedWeights(dialect=translated.dialect)
    used = set()
    for name, value in translated.weights.items():
        prefix = prefixes[is_decoder_name(name)]
        if prefix is None:
            continue
        result.weights[prefix + name] = value
        result.sources[prefix + name] = ", ".join(translated.sources[name])
        used.update(translated.sources[name])
        if name in resized:
            result.resized[prefix + name] = resized[name]
    result.rest = {name: value for name, value in weights.items() if name not in used}
    result.left_out = _left_out(translated, wanted, decoder_prefix is None)
    return result


def _left_out(
    translated: TranslatedWeights, wanted: dict[str, Tensor], without_decoder: bool
) -> list[str]:
    """What of the file's MAE the module does not have by intention, for the report."""
    encoder = [n for n in translated.weights if is_encoder_name(n) and n not in wanted]
    left_out = [f"{name} (the network has none)" for name in encoder if "blocks" not in name]
    num_decoder = sum(map(is_decoder_name, translated.weights))
    if without_decoder and num_decoder:
        left_out.append(f"the decoder, {num_decoder} tensors (pre-training's)")
    return left_out


def _wanted(
    module: nn.Module, encoder_prefix: str, decoder_prefix: str | None
) -> dict[str, Tensor]:
    """The authors' names -> the module's tensors."""
    wanted = {}
    for name, value in module.state_dict().items():
        if decoder_prefix is not None and name.startswith(decoder_prefix):
            if is_decoder_name(name[len(decoder_prefix) :]):
                wanted[name[len(decoder_prefix) :]] = value
        elif name.startswith(encoder_prefix) and is_encoder_name(name[len(encoder_prefix) :]):
            wanted[name[len(encoder_prefix) :]] = value
    return wanted


def _grids(module: nn.Module, wanted: dict[str, Tensor]) -> dict[str, tuple[int, int]]:
    """Grids of the module's position embeddings: what it says itself, else from the values."""
    grid_hw = getattr(getattr(module, "encoder", module), "grid_hw", None)
    names = [name for name in _POSITIONS if name in wanted]
    return {name: grid_hw or infer_grid(wanted[name][0, _num_extra(wanted) :]) for name in names}


def _num_extra(weights: Mapping[str, Tensor]) -> int:
    """Tokens without a place that the position embedding begins with: the class token or none.

    Detectron2's ViT keeps the class token's entry, but not the token.
    """
    if "cls_token" in weights:
        return 1
    length = weights["pos_embed"].shape[1] if "pos_embed" in weights else 0
    return int(length > 1 and math.isqrt(length) ** 2 != length == math.isqrt(length - 1) ** 2 + 1)


def fit_to_shapes(
    translated: TranslatedWeights,
    shapes: dict[str, tuple[int, ...]],
    grids: dict[str, tuple[int, int]],
    position_resize: str = "bicubic",
) -> dict[str, tuple[int, ...]]:
    """Resize what depends on the patch size and the grid: kernels, pixel predictions, positions.

    Kernels are resampled by the pseudo-inverse of bicubic resizing (timm's `resample_patch_embed`,
    from FlexiViT, arXiv 2212.08013): a resized image gives the same tokens. A 14-pixel network on
    224-pixel images becomes a 16-pixel network on 224, as Detectron2's ``..._huge_p14to16`` file.

    Args:
        translated: changed in place.
        shapes: the authors' names -> shapes that are wanted.
        grids: "pos_embed", "decoder_pos_embed" -> (h, w) that is wanted.
        position_resize: see `resize_position_embedding`.

    Returns:
        The names that were resized -> the file's shapes.
    """
    weights = translated.weights
    before = {name: tuple(value.shape) for name, value in weights.items()}
    old_kernel = before[_KERNEL]
    kernel = shapes.get(_KERNEL, old_kernel)
    if kernel != old_kernel and kernel[:2] == old_kernel[:2]:
        from timm.layers import resample_patch_embed  # a second that most callers do not need

        weights[_KERNEL] = resample_patch_embed(weights[_KERNEL].float(), list(kernel[2:]))
        for name in ("decoder_pred.weight", "decoder_pred.bias"):
            if name in weights:
                weights[name] = _resize_pixels(weights[name], old_kernel[2:], kernel[2:])
    num_extra = _num_extra(weights)
    for name, grid_hw in grids.items():
        table = weights.get(name)
        if table is None or name not in shapes or shapes[name][2] != table.shape[2]:
            continue
        source = infer_grid(table[0, num_extra:])
        table = resize_position_embedding(table, source, grid_hw, position_resize)
        extra = shapes[name][1] - grid_hw[0] * grid_hw[1]
        weights[name] = table if extra else table[:, num_extra:]
    changed = [name for name, value in weights.items() if tuple(value.shape) != before[name]]
    return {name: before[name] for name in changed}


def _resize_pixels(value: Tensor, old_hw: tuple[int, ...], new_hw: tuple[int, ...]) -> Tensor:
    """The last layer's rows (p * p * 3, ...) for another patch size, bicubic."""
    rest = value.shape[1:]
    maps = value.float().reshape(*old_hw, -1).permute(2, 0, 1)[None]  # (1, 3 * rest, p, p)
    maps = F.interpolate(maps, size=new_hw, mode="bicubic", align_corners=False, antialias=True)
    return maps[0].permute(1, 2, 0).reshape(-1, *rest).to(value.dtype)


def _check_encoder(translated: TranslatedWeights, wanted: dict[str, Tensor], file: str) -> None:
    # Relative positions are ViTDet's; no MAE has them.
    expected = [n for n in wanted if is_encoder_name(n) and ".rel_pos_" not in n]
    fitting = [
        name
        for name in expected
        if name in translated.weights and translated.weights[name].shape == wanted[name].shape
    ]
    blocks = _block_numbers(translated.weights)
    lost = blocks - _block_numbers(wanted)
    if len(fitting) < MIN_ENCODER_SHARE * len(expected):
        problem = f"{len(fitting)} of {len(expected)} tensors of the encoder match"
    elif len(lost) > (1 - MIN_ENCODER_SHARE) * len(blocks):
        problem = f"{len(blocks) - len(lost)} of the file's {len(blocks)} blocks have a place"
    else:
        return
    own = TranslatedWeights(dict(wanted), {}, "")
    raise ValueError(
        f"{file} holds another MAE than the network: {problem}, expected at least nine tenths. "
        f"Found {describe(translated)}; expected {describe(own)}. Set MODEL.MAE.SIZE and the keys "
        "beside it"
    )


def _block_numbers(names: Iterable[str]) -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith("blocks.")}


def describe(translated: TranslatedWeights) -> str:
    """What an MAE's tensors say of it, for messages: channels, blocks, patch size, decoder."""
    weights = translated.weights
    depths = {
        prefix: len({name.split(".")[1] for name in weights if name.startswith(f"{prefix}.")})
        for prefix in ("blocks", "decoder_blocks")
    }
    channels, _, *patch = weights[_KERNEL].shape
    text = f"{channels} channels, {depths['blocks']} blocks, patches of {patch[0]}x{patch[1]}"
    if "decoder_embed.weight" in weights:
        width = len(weights["decoder_embed.weight"])
        return f"{text}, decoder of {width} channels and {depths['decoder_blocks']} blocks"
    return f"{text}, no decoder"
