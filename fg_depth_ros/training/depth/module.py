"""A depth network in distillation: from pairs and the teacher's predictions to a loss."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch

from fg_depth_ros.distributed import process_rank
from fg_depth_ros.networks import DepthNetwork, load_resnet
from fg_depth_ros.training.batches import cat_batches, to_device
from fg_depth_ros.training.config import check_multiple
from fg_depth_ros.training.depth.augmentation import augment
from fg_depth_ros.training.depth.batch import DistillBatch, PairBatch, TeacherPrediction
from fg_depth_ros.training.depth.config import SCHEDULES, DistillTraining, MaskConfig
from fg_depth_ros.training.depth.dataset import MixedBatch
from fg_depth_ros.training.depth.flow_mask import masked, match_inside
from fg_depth_ros.training.depth.losses import depth_loss
from fg_depth_ros.training.depth.pair_checks import MIN_SHARE
from fg_depth_ros.training.depth.pairs import PairCounts
from fg_depth_ros.training.depth.teacher import Teacher, prediction_from_truth
from fg_depth_ros.training.loop import TrainingModule, freeze


def distill_batch(pairs: PairBatch, prediction: TeacherPrediction, mask: MaskConfig) -> DistillBatch:
    """Return pairs and the teacher's masked prediction as the losses take them, without augmentation.

    Where pairs were cropped, fewer matches lie in the other image.
    """
    target, source = pairs.left.float() / 255, pairs.right.float() / 255
    usable = torch.isfinite(prediction.disparity)
    if mask.inside:
        usable &= match_inside(prediction.disparity)
    disparity = torch.where(usable, prediction.disparity, torch.zeros_like(prediction.disparity))
    return DistillBatch(target, source, target, disparity, usable, pairs.focal, pairs.baseline, pairs.truth)


def replace_bad(batch: DistillBatch) -> tuple[DistillBatch, list[int]]:
    """Return the batch with a good sample in place of every bad one, and which were bad.

    Bad is a sample of which too few pixels pass the mask, or whose camera is none (a focal length or baseline that is
    not finite and positive). Where all are bad they stay, and the caller must not learn from the batch.
    """
    share = batch.mask.flatten(1).float().mean(1)
    camera = torch.isfinite(batch.focal) & torch.isfinite(batch.baseline) & (batch.focal > 0) & (batch.baseline > 0)
    good = (share >= MIN_SHARE) & camera
    bad = (~good).nonzero().flatten().tolist()
    if not bad or len(bad) == len(good):
        return batch, bad
    instead = good.nonzero().flatten()
    chosen = torch.arange(len(good), device=good.device)
    chosen[~good] = instead[torch.arange(len(bad), device=good.device) % len(instead)]
    return DistillBatch(*(part[chosen] for part in batch)), bad


class DistillModule(TrainingModule):
    """A depth network in training.

    ``focal``: canonical focal length, px at the training's size. ``teacher``: None where the true depth stands for it.
    Raises ValueError: a size that does not fit the network. Raises CheckpointError: weights that cannot be used.
    """

    config: DistillTraining
    model: DepthNetwork

    def __init__(self, config: DistillTraining, focal: float, teacher: Teacher | None) -> None:
        super().__init__(config, {"focal": focal, "width": config.width, "height": config.height})
        if config.encoder:
            load_resnet(self.model, config.encoder)
            self.average.load_state_dict(self.model.state_dict())
        if config.encoder_rate == 0 and hasattr(self.model, "encoder"):
            freeze(self.model, ["encoder"])
        # Weights to start from may be of another size; from now on they fit this one.
        self.start_size = self.model.width, self.model.height
        for name in ("width", "height"):
            for network in (self.model, self.average):
                setattr(network, name, getattr(config, name))
                network.options[name] = getattr(config, name)  # type: ignore[index,operator]
            self.options[name] = getattr(config, name)
        check_multiple(int(self.model.size_multiple), *config.all_shapes)
        self.teacher = teacher
        self.prepared, self.counts = PairCounts(), PairCounts()

    def validation_network(self) -> torch.nn.Module:
        """Return the average; before the first step with the input size of the weights to start from."""
        if self.steps_done > self.config.start_step:
            return self.average
        start = copy.copy(self.average)
        for name, side in zip(("width", "height"), self.start_size, strict=True):
            setattr(start, name, side)
        return start

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Return Adam, as published; the encoder's learning rate is ``encoder_rate`` times that of the rest."""
        named = list(self.model.named_parameters())
        encoder = [parameter for name, parameter in named if name.startswith("encoder.")]
        rest = [parameter for name, parameter in named if not name.startswith("encoder.")]
        groups: list[dict[str, Any]] = [{"params": rest, "factor": 1.0}]
        if encoder:
            groups.insert(0, {"params": encoder, "factor": self.config.encoder_rate})
        return torch.optim.Adam(groups, lr=self.config.learning_rate, weight_decay=self.config.weight_decay)

    def lr_factor(self, progress: float) -> float:
        """Return the factor of the schedule."""
        return SCHEDULES[self.config.schedule][1](progress)

    def describe(self) -> dict[str, Any]:
        """Return the counts of pairs before and while training."""
        return {"counts": {"before": self.prepared.as_dict(), "while": self.counts.as_dict()}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the counts of pairs."""
        checkpoint["counts"] = self.counts.as_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the counts of pairs, in the first process alone: the counts of all processes are added up."""
        if "counts" in checkpoint and process_rank()[0] == 0:
            self.counts = PairCounts.from_dict(checkpoint["counts"])

    def transfer_batch_to_device(self, batch: MixedBatch, device: torch.device, dataloader_idx: int) -> DistillBatch:
        """Return what a step needs: moved, rendered, predicted, masked and augmented on the training device."""
        c = self.config
        predicted = [(pairs, prediction) for pairs, prediction in batch.loaded if prediction is not None]
        others = [pairs for pairs, prediction in batch.loaded if prediction is None]
        if batch.scenes is not None:
            others.append(batch.scenes)
        if self.device_renderer is not None and len(batch.scene_numbers):
            index = int(batch.numbers[0]) // len(batch.numbers)
            others.append(self.device_renderer(batch.scene_numbers.tolist(), index))
        if others:
            together = cat_batches([to_device(pairs, device) for pairs in others])
            predicted.append((together, predict(self.teacher, together, c.mask)))
        pairs = cat_batches([to_device(pairs, device) for pairs, _ in predicted])
        ready = distill_batch(
            pairs, cat_batches([to_device(prediction, device) for _, prediction in predicted]), c.mask
        )
        ready, bad = replace_bad(ready)
        self._count(batch.counts, len(ready.target), len(bad))
        if len(bad) == len(ready.target):
            nothing = torch.zeros_like(ready.mask)
            ready = ready._replace(mask=nothing, disparity=torch.zeros_like(ready.disparity))
        generator = torch.Generator().manual_seed(_seed(c.seed, int(batch.numbers[0])))
        return augment(
            ready, generator, zoom_most=c.zoom, flips=c.flips, jitter=c.jitter, grafting=c.graft, inside=c.mask.inside
        )

    def _count(self, left_out: PairCounts, samples: int, bad: int) -> None:
        self.counts += left_out
        for _ in range(bad):
            self.counts.skip(f"step {self.steps_done}", "few_pixels")
        self.counts.used += samples - bad
        self.counts.require_used("the samples of this training", complete=False)

    def on_train_epoch_end(self) -> None:
        """Add up the counts of all processes at the end of the run."""
        if self.trainer.world_size > 1:
            every: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(every, self.counts)
            self.counts = sum(every, start=PairCounts())

    def losses(self, batch: DistillBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the configured losses; a batch without any pixel to learn from changes nothing."""
        prediction = self.predict(batch.seen)
        generator = torch.Generator().manual_seed(_seed(self.config.seed, self.steps_done))
        loss, parts = depth_loss(prediction, batch, self.model.focal, self.config.losses, generator)
        # Levels that do not learn take part with nothing, or the processes of a run would wait for their gradients.
        nothing = 0.0 * torch.stack([level.sum() for level in (prediction.inverse, *(prediction.levels or ()))]).sum()
        return (loss + nothing if batch.mask.any() else nothing), parts


def predict(teacher: Teacher | None, pairs: PairBatch, mask: MaskConfig) -> TeacherPrediction:
    """Return the teacher's prediction, masked, where the pairs are; without a teacher their true depth."""
    prediction = (
        prediction_from_truth(pairs)
        if teacher is None
        else to_device(teacher.predict(pairs.left, pairs.right, both=bool(mask.left_right)), pairs.left.device)
    )
    return masked(prediction, pairs.focal, pairs.baseline, mask)


def _seed(*words: int) -> int:
    return int(np.random.SeedSequence(words).generate_state(1)[0])
