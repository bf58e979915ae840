"""Masked autoencoders (arXiv 2111.06377).

- `masking.py`, `position_embedding.py`: pure functions on tensors;
- `network.py`: encoder, decoder and the paper's steps, from keyword arguments; `blocks.py`;
- `meta_arch.py`: Detectron2's meta-architecture; `config.py`: config keys, sizes by name;
- `multitask.py`: an autoencoder with task heads;
- `weights.py`: public weight files.
"""

from __future__ import annotations

from d2_multitask.modeling.mae.config import add_mae_config
from d2_multitask.modeling.mae.meta_arch import MaskedAutoencoder
from d2_multitask.modeling.mae.network import MAEDecoder, MAEEncoder, MAENetwork, MAEOutput

__all__ = [
    "MAEDecoder",
    "MAEEncoder",
    "MAENetwork",
    "MAEOutput",
    "MaskedAutoencoder",
    "add_mae_config",
]
