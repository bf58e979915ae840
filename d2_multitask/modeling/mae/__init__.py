"""Masked autoencoders (arXiv 2111.06377).

- `patches.py`, `position_embedding.py`, `masking.py`: pure functions on tensors;
- `blocks.py`, `encoder.py`, `decoder.py`: the network's halves, from keyword arguments alone;
- `network.py`: the paper's steps; `masked_autoencoder.py`: Detectron2's meta-architecture;
- `sizes.py`: sizes by name, config keys;
- `weights.py`: public weights in four dialects.
"""

from __future__ import annotations

from d2_multitask.modeling.mae.config import add_mae_config
from d2_multitask.modeling.mae.decoder import MAEDecoder
from d2_multitask.modeling.mae.encoder import MAEEncoder
from d2_multitask.modeling.mae.meta_arch import MaskedAutoencoder
from d2_multitask.modeling.mae.network import MAENetwork, MAEOutput

__all__ = [
    "MAEDecoder",
    "MAEEncoder",
    "MAENetwork",
    "MAEOutput",
    "MaskedAutoencoder",
    "add_mae_config",
]
