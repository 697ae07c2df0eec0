"""How a depth training is judged: figures on fixed pairs, and pictures of some of them, at every validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch

from fg_depth_ros.data.io.formats import write_image
from fg_depth_ros.networks import DepthNetwork, depth_of
from fg_depth_ros.training.depth.batch import PairBatch, Taught
from fg_depth_ros.training.depth.config import MaskConfig
from fg_depth_ros.training.depth.flow_mask import prior_flow_mask
from fg_depth_ros.training.depth.pair_checks import PairCounts
from fg_depth_ros.training.loop import Keeper, Training, TrainingModule, Watch

SELECTED = "abs_rel"
"""The figure that chooses the best weights: the mean of the AbsRel of all judged sets."""
_NEAREST, _FARTHEST = 1e-3, 80.0  # m, the range that is judged (Eigen et al., NIPS 2014)
_PICTURES = 3

Draw = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]
"""(image H x W x 3 uint8 RGB, reference H x W m with NaN, answer H x W m) -> a picture, uint8 RGB."""


class Judged(NamedTuple):
    """A pair to judge by: ``image`` 1 x 3 x H x W uint8, ``focal`` px, ``reference`` H x W m, NaN where there is none,
    and whether that is the truth or what the teacher says where its checks hold."""

    image: torch.Tensor
    focal: float
    reference: torch.Tensor
    by_truth: bool


def judged(pairs: PairBatch, taught: Taught | None, mask: MaskConfig) -> Judged:
    """One pair (N = 1): with its truth where it has any, else with the teacher's depth within the flow mask."""
    if torch.isfinite(pairs.truth).any() or taught is None:
        return Judged(pairs.left, float(pairs.focal[0]), pairs.truth[0, 0], True)
    usable = prior_flow_mask(taught, pairs.focal, pairs.baseline, mask)
    depth = (pairs.focal * pairs.baseline).view(-1, 1, 1, 1) / torch.where(usable, taught.disparity, 1.0)
    return Judged(pairs.left, float(pairs.focal[0]), torch.where(usable, depth, torch.nan)[0, 0].cpu(), False)


@torch.no_grad()
def answer(network: DepthNetwork, pair: Judged, device: torch.device) -> torch.Tensor:
    """The network's depth of a pair's image, H x W float32 m on the CPU."""
    inverse = network(pair.image.to(device).float() / 255).inverse
    return depth_of(inverse.float(), network.focal, pair.focal)[0, 0].cpu()


def errors(depth: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """``abs_rel``, ``rmse`` (m) and ``delta_1`` (part) of one answer, H x W m each, as Eigen et al. define them.

    Where the reference lies between 1 mm and 80 m; the answer is clamped to that. NaN without such a pixel.
    """
    known = (reference > _NEAREST) & (reference < _FARTHEST)
    truth, found = reference[known].double(), depth[known].double().clamp(_NEAREST, _FARTHEST)
    ratio = torch.maximum(found / truth, truth / found)
    values = {
        "abs_rel": ((found - truth).abs() / truth).mean(),
        "rmse": (found - truth).square().mean().sqrt(),
        "delta_1": (ratio < 1.25).double().mean(),
    }
    return {name: float(value) for name, value in values.items()}


def judge(sets: Mapping[str, Sequence[Judged]], network: torch.nn.Module, device: torch.device) -> dict[str, float]:
    """``SET/abs_rel``, ``SET/rmse``, ``SET/delta_1`` against the truth, ``SET/teacher_abs_rel`` ... where the teacher
    is the reference: means over the images of a set."""
    figures: dict[str, float] = {}
    for name, pairs in sets.items():
        found: dict[str, list[float]] = {}
        for pair in pairs:
            prefix = "" if pair.by_truth else "teacher_"
            for key, value in errors(answer(network, pair, device), pair.reference).items():  # type: ignore[arg-type]
                found.setdefault(f"{name}/{prefix}{key}", []).append(value)
        figures.update({key: float(np.nanmean(values)) for key, values in found.items()})
    return figures


class DistillKeeper(Keeper):
    """As every training's; also pictures of fixed pairs, before the first step too, and the counts of bad pairs."""

    def __init__(
        self,
        config: Training,
        selecting: Mapping[str, Sequence[Judged]],
        watched: Mapping[str, Sequence[Judged]],
        source: Mapping[str, Any],
        watch: Watch | None,
        draw: Draw | None,
        prepared: PairCounts,
    ) -> None:
        """What it judges by.

        Args:
            config: of the run.
            selecting: pairs whose mean AbsRel decides which weights are the best.
            watched: pairs whose figures are written down beside.
            source: what the card says of data and teacher.
            watch: figures on anything else.
            draw: makes the picture of one pair.
            prepared: what was found before the training.
        """
        super().__init__(config, self._judge, SELECTED, source, watch)
        self.selecting, self.watched, self.draw, self.prepared = selecting, watched, draw, prepared
        every = [pair for sets in (watched, selecting) for pairs in sets.values() for pair in pairs]
        step = max(1, len(every) // _PICTURES)
        self.shown = every[step // 2 :: step][:_PICTURES]

    def _judge(self, network: torch.nn.Module, device: torch.device) -> dict[str, float]:
        selecting = judge(self.selecting, network, device)
        mean = float(np.mean([value for name, value in selecting.items() if name.endswith("abs_rel")]))
        return {SELECTED: mean, **selecting, **judge(self.watched, network, device)}

    def describe(self, module: TrainingModule, processes: int, figures: dict[str, float]) -> dict[str, Any]:
        """As every training's, with the counts of pairs before and while training."""
        counts = {"before": self.prepared.as_dict(), "while": module.counts.as_dict()}  # type: ignore[union-attr,operator]
        return {**super().describe(module, processes, figures), "counts": counts}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """What the network knows before it is trained."""
        if module.steps_done == 0:  # type: ignore[attr-defined]
            self.keep(trainer, module)  # type: ignore[arg-type]

    def keep(self, trainer: pl.Trainer, module: TrainingModule) -> None:
        """As every training does it, and ``pictures/STEP.png``."""
        super().keep(trainer, module)
        if self.draw is None or not trainer.is_global_zero or not self.shown:
            return
        rows = []
        for pair in self.shown:
            depth = answer(module.average, pair, module.device)  # type: ignore[arg-type]
            rows.append(self.draw(pair.image[0].permute(1, 2, 0).numpy(), pair.reference.numpy(), depth.numpy()))
        widest = max(row.shape[1] for row in rows)
        picture = np.concatenate([np.pad(row, ((0, 0), (0, widest - row.shape[1]), (0, 0))) for row in rows])
        (self.out / "pictures").mkdir(exist_ok=True)
        write_image(self.out / "pictures" / f"{module.steps_done:07d}.png", picture)
        if trainer.logger:
            trainer.logger.experiment.add_image(  # type: ignore[attr-defined]
                "val/samples", picture, module.steps_done, dataformats="HWC"
            )
