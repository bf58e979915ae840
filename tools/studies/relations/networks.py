"""The autoencoder of a study, and the same network with less training: its controls."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from d2_multitask.modeling.mae import MaskedAutoencoder
from d2_multitask.segmenting.images import load_autoencoder

UNTRAINED, EARLY = "untrained", "early"
EARLY_SHARE = 0.05  # of the training


def untrained(cfg: CfgNode) -> MaskedAutoencoder:
    """The network of a config with random weights of its ``SEED`` (0 if that is not set)."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(max(cfg.SEED, 0))
        return build_model(cfg).eval()


def early_checkpoint(cfg: CfgNode) -> Path | None:
    """Of those beside ``MODEL.WEIGHTS`` the nearest to 5 % of ``SOLVER.MAX_ITER``.

    None that is from less than half, or more than twice as many iterations.
    """
    target = EARLY_SHARE * cfg.SOLVER.MAX_ITER
    files = Path(cfg.MODEL.WEIGHTS).parent.glob("model_*.pth")
    iterations = {f: int(f.stem[6:]) + 1 for f in files if f.stem[6:].isdigit()}
    near = [file for file, count in iterations.items() if target / 2 <= count <= 2 * target]
    return min(near, key=lambda file: abs(iterations[file] - target), default=None)


@dataclass(frozen=True)
class Networks:
    """What a study measures with.

    Attributes:
        cfg: of the trained network.
        model: the trained network.
        controls: name -> the same network with other weights.
        early: the weights of "early", if there are any.
    """

    cfg: CfgNode
    model: MaskedAutoencoder
    controls: dict[str, MaskedAutoencoder]
    early: Path | None

    @property
    def note(self) -> str:
        """What the rows of the controls are, for the table."""
        seed = max(self.cfg.SEED, 0)
        note = f"({UNTRAINED}): the same network with random weights of the seed {seed}"
        return f"{note}; ({EARLY}): {self.early}." if self.early else f"{note}."


def load_networks(config_file: str, opts: list[str], early: Path | None) -> Networks:
    """The trained network, untrained, and early if there are such weights.

    Args:
        config_file: see `load_autoencoder`.
        opts: likewise.
        early: the weights; ``None`` = those of `early_checkpoint`.

    Raises:
        ValueError: see `load_autoencoder`.
    """
    cfg, model = load_autoencoder(config_file, opts)
    early = early or early_checkpoint(cfg)
    controls = {UNTRAINED: untrained(cfg)}
    if early:
        _, controls[EARLY] = load_autoencoder(config_file, [*opts, "MODEL.WEIGHTS", str(early)])
    return Networks(cfg, model, controls, early)
