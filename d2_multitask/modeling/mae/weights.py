"""Public MAE weights -> tensors that fit a network of this package: names, patch size, positions.

Dialects of tensor names, all translated to the authors':

- `authors`: the authors' three families of files, timm's and Detectron2's ViT;
  `blocks.0.attn.qkv.weight`;
- `huggingface_v4`: the files of the Hugging Face hub, and what `transformers` saves;
  `vit.encoder.layer.0.attention.attention.query.weight`;
- `huggingface_v5`: `transformers` from 5.0 on, in memory; `vit.layers.0.attention.q_proj.weight`;
- `d2_multitask`: checkpoints of this package, the authors' names below `encoder.` and `decoder.`.

Loading (`d2_multitask.checkpoint`) calls a module's method ``adapt_weights``, if it has one, which
calls `adapt_mae_weights`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from d2_multitask.checkpoint.report import AdaptedWeights
from d2_multitask.modeling.mae.position_embedding import infer_grid, resize_position_embedding

# Below this share of the encoder's tensors, a file is of another network.
MIN_ENCODER_SHARE = 0.9

_KERNEL = "patch_embed.proj.weight"
_POSITIONS = ("pos_embed", "decoder_pos_embed")
# Every MAE has this tensor; wrappers put their prefix before it.
_HUGGINGFACE_KERNEL = "embeddings.patch_embeddings.projection.weight"

# The tensors of the authors' encoder and decoder; others belong to heads or other modules.
_ENCODER = re.compile(r"(cls_token|pos_embed|(patch_embed\.proj|blocks\.\d+\..+|norm)\..+)$")
_DECODER = re.compile(r"(mask_token|decoder_pos_embed|decoder_(embed|blocks\.\d+|norm|pred)\..+)$")

# Hugging Face's names -> the authors', applied in this order; of alternatives the first is version
# 4. `transformers` 5 saves the decoder's blocks as decoder_encoder.layer. qkv becomes one tensor.
_HUGGINGFACE_RULES = (
    (r"^decoder\.(decoder_layers|decoder_encoder\.layer)\.", "decoder_blocks."),
    (r"^decoder\.", ""),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^layernorm\.", "norm."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.attention\.(attention\.query|q_proj)\.", ".attn.qkv.0."),
    (r"\.attention\.(attention\.key|k_proj)\.", ".attn.qkv.1."),
    (r"\.attention\.(attention\.value|v_proj)\.", ".attn.qkv.2."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
)


@dataclass
class TranslatedWeights:
    """An MAE's tensors under the authors' names.

    Attributes:
        weights: the authors' names -> tensors.
        sources: the authors' names -> the names in the file.
        dialect: of the file, see the top of this module.
    """

    weights: dict[str, Tensor]
    sources: dict[str, list[str]]
    dialect: str

    @property
    def has_decoder(self) -> bool:
        """Whether there is a decoder."""
        return any(map(is_decoder_name, self.weights))


def is_encoder_name(name: str) -> bool:
    """Whether an MAE's encoder has a tensor of this name (the authors' names)."""
    return bool(_ENCODER.match(name))


def is_decoder_name(name: str) -> bool:
    """Whether an MAE's decoder has a tensor of this name (the authors' names)."""
    return bool(_DECODER.match(name))


def to_authors_names(weights: dict[str, Tensor], file: str = "file") -> TranslatedWeights | None:
    """Find an MAE among the tensors of a file, in any dialect.

    Args:
        weights: names in the file -> tensors.
        file: for messages.

    Returns:
        The MAE, or ``None`` if there is none.

    Raises:
        ValueError: a block's query, key or value is missing.
    """
    prefix = _prefix(weights, _HUGGINGFACE_KERNEL)
    if prefix is not None:
        return _from_huggingface(weights, prefix, file)
    prefix = _prefix(weights, _KERNEL)
    if prefix is None:
        return None
    is_own = prefix.endswith("encoder.")
    decoder_prefix = f"{prefix.removesuffix('encoder.')}decoder." if is_own else prefix
    translated = TranslatedWeights({}, {}, "d2_multitask" if is_own else "authors")
    for name, value in weights.items():
        for start, is_known in ((prefix, is_encoder_name), (decoder_prefix, is_decoder_name)):
            if name.startswith(start) and is_known(name[len(start) :]):
                translated.weights[name[len(start) :]] = value
                translated.sources[name[len(start) :]] = [name]
    return translated


def _prefix(names: Iterable[str], kernel: str) -> str | None:
    """The prefix of the kernel; the shortest if there are several."""
    found = [
        name[: -len(kernel)]
        for name in names
        if name.endswith(kernel) and name[: -len(kernel)][-1:] in ("", ".")
    ]
    return min(found, key=len, default=None)


def _from_huggingface(weights: dict[str, Tensor], prefix: str, file: str) -> TranslatedWeights:
    outer = prefix.removesuffix("vit.")  # the decoder is beside "vit."
    is_new = any(name.startswith(f"{prefix}layers.") for name in weights)
    translated = TranslatedWeights({}, {}, "huggingface_v5" if is_new else "huggingface_v4")
    qkv: dict[str, list[str | None]] = {}  # our name -> names of query, key and value in the file
    for name, value in weights.items():
        start = outer if name.startswith(f"{outer}decoder.") else prefix
        if not name.startswith(start):
            continue
        target = rename(name[len(start) :], _HUGGINGFACE_RULES)
        part = re.match(r"(.+\.qkv)\.([012])\.(\w+)$", target)
        if part:
            qkv.setdefault(f"{part[1]}.{part[3]}", [None] * 3)[int(part[2])] = name
        elif is_encoder_name(target) or is_decoder_name(target):
            translated.weights[target], translated.sources[target] = value, [name]
    for target, names in qkv.items():
        found = [name for name in names if name is not None]
        if len(found) < 3:
            raise ValueError(
                f"{file}: found {found} for {target}, expected query, key and value; the file is "
                "incomplete"
            )
        translated.weights[target] = torch.cat([weights[name] for name in found])
        translated.sources[target] = found
    return translated


def rename(name: str, rules: Iterable[tuple[str, str]]) -> str:
    """Apply (pattern, replacement) to a name, one after the other."""
    for pattern, replacement in rules:
        name = re.sub(pattern, replacement, name)
    return name


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
        module: gets the weights. It, or its ``encoder``, has ``grid_hw`` and ``positions``. Below
            ``encoder_prefix`` it has the authors' names of the encoder (more, such as a neck, or
            fewer, such as no class token, are allowed), below ``decoder_prefix`` those of the
            decoder.
        weights: names in the file -> tensors; not changed.
        file: for messages.
        encoder_prefix: "" or "encoder.".
        decoder_prefix: ``None`` for a module without a decoder; a decoder in the file is unused.
        require_decoder: refuse files without a decoder.
        fresh_decoder_key: what to set to train without one, for the message.

    Returns:
        The tensors under the module's names, or ``None`` if the file holds no MAE.

    Raises:
        ValueError: fewer than nine tenths of the encoder's tensors match the file's, or of the
            file's blocks exist in the module; or the file has no decoder and one is required.
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
    shapes = {name: tuple(value.shape) for name, value in wanted.items()}
    network = getattr(module, "encoder", module)
    resized = fit_to_shapes(translated, shapes, network.grid_hw, network.positions.mode)
    _check_encoder(translated, wanted, file)
    result = AdaptedWeights(dialect=translated.dialect)
    used = set()
    for name, value in translated.weights.items():
        prefix = decoder_prefix if is_decoder_name(name) else encoder_prefix
        if prefix is None:
            continue
        result.weights[prefix + name] = value
        result.sources[prefix + name] = ", ".join(translated.sources[name])
        used.update(translated.sources[name])
        if name in resized:
            result.resized[prefix + name] = resized[name]
    result.rest = {name: value for name, value in weights.items() if name not in used}
    result.left_out = [
        f"{name} (the network has none)"
        for name in translated.weights
        if is_encoder_name(name) and name not in wanted and "blocks" not in name
    ]
    num_decoder = sum(map(is_decoder_name, translated.weights))
    if decoder_prefix is None and num_decoder:
        result.left_out.append(f"the decoder, {num_decoder} tensors (pre-training's)")
    return result


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


def _num_extra(weights: Mapping[str, Tensor]) -> int:
    """Tokens without a position at the start of the position embedding: the class token or none.

    Detectron2's ViT keeps the class token's entry, but not the token.
    """
    if "cls_token" in weights:
        return 1
    length = weights["pos_embed"].shape[1] if "pos_embed" in weights else 0
    return int(length > 1 and math.isqrt(length) ** 2 != length == math.isqrt(length - 1) ** 2 + 1)


def fit_to_shapes(
    translated: TranslatedWeights,
    shapes: dict[str, tuple[int, ...]],
    grid_hw: tuple[int, int],
    position_resize: str = "bicubic",
) -> dict[str, tuple[int, ...]]:
    """Resize what depends on the patch size and the grid: kernels, pixel predictions, positions.

    Kernels are resampled by the pseudo-inverse of bicubic resizing (timm's `resample_patch_embed`,
    from FlexiViT, arXiv 2212.08013): a resized image gives the same tokens. A 14-pixel network on
    224-pixel images becomes a 16-pixel network on 224, as Detectron2's ``..._huge_p14to16`` file.

    Args:
        translated: changed in place.
        shapes: the authors' names -> wanted shapes.
        grid_hw: wanted (h, w) of the positions.
        position_resize: see `resize_position_embedding`.

    Returns:
        The names that were resized -> the file's shapes.
    """
    weights = translated.weights
    before = {name: tuple(value.shape) for name, value in weights.items()}
    old_kernel = before[_KERNEL]
    kernel = shapes.get(_KERNEL, old_kernel)
    if kernel != old_kernel and kernel[:2] == old_kernel[:2]:
        from timm.layers import resample_patch_embed  # imports timm, which takes a second

        weights[_KERNEL] = resample_patch_embed(weights[_KERNEL].float(), list(kernel[2:]))
        for name in ("decoder_pred.weight", "decoder_pred.bias"):
            if name in weights:
                weights[name] = _resize_pixels(weights[name], old_kernel[2:], kernel[2:])
    num_extra = _num_extra(weights)
    for name in _POSITIONS:
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
        problem = (
            f"{len(blocks) - len(lost)} of the file's {len(blocks)} blocks exist in the network"
        )
    else:
        return
    own = TranslatedWeights(dict(wanted), {}, "")
    raise ValueError(
        f"{file} holds another MAE than the network: {problem}, expected at least nine tenths. "
        f"Found {describe(translated)}; expected {describe(own)}. Set MODEL.MAE.SIZE and the keys "
        "beside it"
    )


def _block_numbers(names: Iterable[str], stem: str = "blocks") -> set[str]:
    return {name.split(".")[1] for name in names if name.startswith(f"{stem}.")}


def describe(translated: TranslatedWeights) -> str:
    """An MAE's channels, blocks, patch size and decoder, for messages."""
    weights = translated.weights
    channels, _, *patch = weights[_KERNEL].shape
    text = f"{channels} channels, {len(_block_numbers(weights))} blocks"
    text += f", patches of {patch[0]}x{patch[1]}"
    if "decoder_embed.weight" not in weights:
        return f"{text}, no decoder"
    width, depth = len(weights["decoder_embed.weight"]), _block_numbers(weights, "decoder_blocks")
    return f"{text}, decoder of {width} channels and {len(depth)} blocks"
