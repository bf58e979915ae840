"""Masked autoencoders (arXiv 2111.06377).

- `patches.py`, `position_embedding.py`, `masking.py`: pure functions on tensors;
- `blocks.py`, `encoder.py`, `decoder.py`: the network's halves, from keyword arguments alone;
- `masked_autoencoder.py`: the paper's steps, and Detectron2's meta-architecture;
- `sizes.py`: sizes by name, config keys;
- `weights.py`: public weights in four dialects.
"""

from __future__ import annotations

from d2_multitask.modeling.mae.decoder import MAEDecoder
from d2_multitask.modeling.mae.encoder import MAEEncoder
from d2_multitask.modeling.mae.masked_autoencoder import MAEOutput, MaskedAutoencoder
from d2_multitask.modeling.mae.sizes import add_mae_config

__all__ = ["MAEDecoder", "MAEEncoder", "MAEOutput", "MaskedAutoencoder", "add_mae_config"]
