"""A depth network in distillation: from pairs and what the teacher says of them to a loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from fg_depth_ros.networks import DepthNetwork, load_resnet
from fg_depth_ros.training.depth.augmentation import augment
from fg_depth_ros.training.depth.batch import DistillBatch, PairBatch, Taught
from fg_depth_ros.training.depth.config import SCHEDULES, DistillTraining, MaskConfig
from fg_depth_ros.training.depth.flow_mask import prior_flow_mask
from fg_depth_ros.training.depth.losses import depth_loss
from fg_depth_ros.training.depth.pair_checks import LEAST_SHARE, PairCounts, refuse_if_useless
from fg_depth_ros.training.depth.pair_sources import Drawn, RenderedSource
from fg_depth_ros.training.depth.teacher import Teacher, taught_by_truth
from fg_depth_ros.training.loop import TrainingModule


def distill_batch(pairs: PairBatch, taught: Taught, mask: MaskConfig) -> DistillBatch:
    """Pairs and what the teacher says of them, as the losses want it; nothing augmented."""
    target, source = pairs.left.float() / 255, pairs.right.float() / 255
    usable = prior_flow_mask(taught, pairs.focal, pairs.baseline, mask)
    disparity = torch.where(usable, taught.disparity, torch.zeros_like(taught.disparity))
    return DistillBatch(target, source, target, disparity, usable, pairs.focal, pairs.baseline, pairs.truth)


def without_bad(batch: DistillBatch) -> tuple[DistillBatch, list[int]]:
    """The batch with a good sample in place of every bad one, and which were bad.

    Bad is a sample of which too few pixels may be learned from, or whose camera is none (a focal length or baseline
    that is not finite and positive). Where all are bad they stay, and the caller must not learn from the batch.
    """
    share = batch.mask.flatten(1).float().mean(1)
    camera = torch.isfinite(batch.focal) & torch.isfinite(batch.baseline) & (batch.focal > 0) & (batch.baseline > 0)
    good = (share >= LEAST_SHARE) & camera
    bad = (~good).nonzero().flatten().tolist()
    if not bad or len(bad) == len(good):
        return batch, bad
    instead = good.nonzero().flatten()
    chosen = torch.arange(len(good), device=good.device)
    chosen[~good] = instead[torch.arange(len(bad), device=good.device) % len(instead)]
    return DistillBatch(*(part[chosen] for part in batch)), bad


class DistillModule(TrainingModule):
    """A depth network in training."""

    config: DistillTraining
    model: DepthNetwork

    def __init__(self, config: DistillTraining, focal: float, teacher: Teacher | None) -> None:
        """``focal``: canonical, px at the training's size; ``teacher``: None where the truth teaches.

        Raises:
            ValueError: a size that does not fit the network.
            CheckpointError: weights that cannot be used.
        """
        super().__init__(config, {"focal": focal, "width": config.width, "height": config.height})
        if config.encoder:
            load_resnet(self.model, config.encoder)
            self.average.load_state_dict(self.model.state_dict())
        # Weights to start from may be of another size; from now on they fit this one.
        for name in ("width", "height"):
            for network in (self.model, self.average):
                setattr(network, name, getattr(config, name))
                network.options[name] = getattr(config, name)  # type: ignore[index,operator]
            self.options[name] = getattr(config, name)
        multiple = int(self.model.size_multiple)
        for width, height in config.all_shapes:
            if width % multiple or height % multiple:
                raise ValueError(f"width and height must be multiples of {multiple}, got {width}x{height}")
        self.teacher = teacher
        self.scenes: RenderedSource | None = None
        self.counts = PairCounts()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Adam, as published."""
        return torch.optim.Adam(
            self.model.parameters(), lr=self.config.learning_rate, weight_decay=self.config.weight_decay
        )

    def rate_factor(self, progress: float) -> float:
        """As the schedule says."""
        return SCHEDULES[self.config.schedule][1](progress)

    def render(self, numbers: list[int]) -> PairBatch:
        """The scenes with these numbers."""
        if self.scenes is None:
            raise RuntimeError("no generator to render scenes with")
        return self.scenes.pairs(numbers)

    def transfer_batch_to_device(self, batch: Drawn, device: torch.device, dataloader_idx: int) -> DistillBatch:
        """Everything a step needs: moved, rendered, taught, masked and augmented on the training device."""
        parts: list[tuple[PairBatch, Taught | None]] = [
            (PairBatch(*moved(pairs, device)), None if taught is None else Taught(*moved(taught, device)))
            for pairs, taught in batch.read
        ]
        if batch.scenes is not None:
            parts.append((PairBatch(*moved(batch.scenes, device)), None))
        if len(batch.to_render):
            parts.append((PairBatch(*moved(self.render(batch.to_render.tolist()), device)), None))
        self.counts += batch.counts
        ready = distill_batch(*self._taught(parts), self.config.mask)
        ready, bad = without_bad(ready)
        for _ in bad:
            self.counts.skip(f"step {self.steps_done}", "few_pixels")
        self.counts.used += len(ready.target) - len(bad)
        refuse_if_useless("the samples of this training", self.counts, whole=False)
        if len(bad) == len(ready.target):
            nothing = torch.zeros_like(ready.mask)
            ready = ready._replace(mask=nothing, disparity=torch.zeros_like(ready.disparity))
        generator = torch.Generator().manual_seed(_seed(self.config.seed, int(batch.numbers[0])))
        c = self.config
        return augment(ready, generator, zoom_most=c.zoom, flips=c.flips, jitter=c.jitter, grafting=c.graft)

    def _taught(self, parts: Sequence[tuple[PairBatch, Taught | None]]) -> tuple[PairBatch, Taught]:
        """One batch of all parts; who has no answer yet is answered, all together."""
        known = [(pairs, taught) for pairs, taught in parts if taught is not None]
        asked = [pairs for pairs, taught in parts if taught is None]
        if asked:
            together = PairBatch(*(torch.cat(field) for field in zip(*asked, strict=True)))
            known.append((together, self.teach(together)))
        pairs = PairBatch(*(torch.cat(field) for field in zip(*(p for p, _ in known), strict=True)))
        fields = list(zip(*(t for _, t in known), strict=True))
        right = None if any(part is None for part in fields[2]) else torch.cat(fields[2])
        return pairs, Taught(torch.cat(fields[0]), torch.cat(fields[1]), right)

    def teach(self, pairs: PairBatch) -> Taught:
        """What the teacher says now."""
        if self.teacher is None:
            return taught_by_truth(pairs)
        answer = self.teacher.teach(pairs.left, pairs.right, both=bool(self.config.mask.left_right))
        return Taught(*moved(answer, pairs.left.device))

    def on_train_epoch_end(self) -> None:
        """The end of the run: count the pairs of all processes."""
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, self.counts)
            self.counts = sum(every, start=PairCounts())

    def losses(self, batch: DistillBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The configured losses; a batch without any pixel to learn from changes nothing."""
        prediction = self.model(batch.seen)
        generator = torch.Generator().manual_seed(_seed(self.config.seed, self.steps_done))
        loss, parts = depth_loss(prediction, batch, self.model.focal, self.config.losses, generator)
        # Levels that do not learn take part with nothing, or the processes of a run would wait for their gradients.
        nothing = 0.0 * torch.stack([level.sum() for level in (prediction.inverse, *(prediction.levels or ()))]).sum()
        return (loss + nothing if batch.mask.any() else nothing), parts


def moved(tensors: Sequence[torch.Tensor | None], device: torch.device) -> list[Any]:
    """The tensors there; None stays None."""
    return [None if tensor is None else tensor.to(device) for tensor in tensors]


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
