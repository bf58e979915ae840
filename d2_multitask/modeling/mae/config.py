"""The sizes of MAE by name, and the config keys of the network."""

from __future__ import annotations

from typing import Any, NamedTuple

from detectron2.config import CfgNode

from d2_multitask.modeling.mae.network import MAEEncoder


class MAESize(NamedTuple):
    """One size: patch side in pixels; channels, blocks and heads of encoder and decoder."""

    patch_size: int
    embed_dim: int
    depth: int
    num_heads: int
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16


# The paper's three, with the decoder of the authors' code; "tiny" is DeiT's, with a decoder reduced
# in proportion.
SIZES = {
    "tiny": MAESize(16, 192, 12, 3, 128, 4, 4),
    "base": MAESize(16, 768, 12, 12),
    "large": MAESize(16, 1024, 24, 16),
    "huge": MAESize(14, 1280, 32, 16),
}


def add_mae_config(cfg: CfgNode) -> None:
    """Declare ``MODEL.MAE`` and ``TEST.RECONSTRUCTION``.

    Args:
        cfg: the config to extend, in place.
    """
    cfg.MODEL.MAE = node = CfgNode()
    # "tiny", "base", "large" or "huge". The numbers below that are 0 are those of the size.
    node.SIZE = "base"
    node.PATCH_SIZE = 0
    node.EMBED_DIM = 0
    node.DEPTH = 0
    node.NUM_HEADS = 0
    node.DECODER_EMBED_DIM = 0
    node.DECODER_DEPTH = 0
    node.DECODER_NUM_HEADS = 0
    # (height, width) that the stored position embedding is for; that of the public checkpoints.
    node.IMAGE_SIZE = (224, 224)
    # Positions on another grid: "bicubic" as all public code, or "sincos", exact.
    node.POSITION_RESIZE = "bicubic"
    # Share of removed patches, drawn uniformly between the two for each batch. The paper's is
    # fixed; with a varying one, the MAE can reconstruct from few or many patches.
    node.MASK_RATIO = (0.75, 0.75)
    # Predict pixels normalised by each patch's mean and deviation: better features, but the output
    # alone is no image.
    node.NORM_PIX_LOSS = False
    # Refuse weight files of an encoder alone: with a random decoder reconstructions are noise.
    # Set it to False to train a fresh decoder on a trained encoder.
    node.REQUIRE_DECODER_WEIGHTS = True

    cfg.TEST.RECONSTRUCTION = CfgNode()
    # Masks of the evaluation: the same in every run, so that results can be compared.
    cfg.TEST.RECONSTRUCTION.MASK_RATIO = 0.75
    cfg.TEST.RECONSTRUCTION.SEED = 0


def find_size(node: CfgNode) -> MAESize:
    """``MODEL.MAE`` -> all numbers of the network.

    Raises:
        ValueError: the size's name is unknown, or a number is negative.
    """
    if node.SIZE not in SIZES:
        raise ValueError(f"MODEL.MAE.SIZE: found {node.SIZE!r}, expected one of {list(SIZES)}")
    given = {field: node[field.upper()] for field in MAESize._fields}
    for field, value in given.items():
        if value < 0:
            raise ValueError(
                f"MODEL.MAE.{field.upper()}: found {value}, expected a positive number, or 0 for "
                f"that of {node.SIZE!r}"
            )
    return SIZES[node.SIZE]._replace(**{field: value for field, value in given.items() if value})


def encoder_arguments(node: CfgNode) -> dict[str, Any]:
    """``MODEL.MAE`` -> arguments of `MAEEncoder`."""
    size = find_size(node)
    return {
        "image_size": tuple(node.IMAGE_SIZE),
        "patch_size": size.patch_size,
        "embed_dim": size.embed_dim,
        "depth": size.depth,
        "num_heads": size.num_heads,
        "position_resize": node.POSITION_RESIZE,
    }


def network_arguments(cfg: CfgNode) -> dict[str, Any]:
    """Config -> arguments of `MAENetwork` except encoder and decoder."""
    return {
        "norm_pix_loss": cfg.MODEL.MAE.NORM_PIX_LOSS,
        "mask_ratio": tuple(cfg.MODEL.MAE.MASK_RATIO),
        "pixel_mean": cfg.MODEL.PIXEL_MEAN,
        "pixel_std": cfg.MODEL.PIXEL_STD,
    }


def decoder_arguments(node: CfgNode, encoder: MAEEncoder) -> dict[str, Any]:
    """``MODEL.MAE`` and the encoder -> arguments of `MAEDecoder`."""
    size = find_size(node)
    return {
        "encoder_dim": encoder.embed_dim,
        "grid_hw": encoder.grid_hw,
        "num_outputs": 3 * size.patch_size**2,
        "embed_dim": size.decoder_embed_dim,
        "depth": size.decoder_depth,
        "num_heads": size.decoder_num_heads,
        "position_resize": node.POSITION_RESIZE,
    }
