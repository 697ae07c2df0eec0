"""Rendered pairs on disk, laid out as the published Flying Chairs are."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from fg_depth_ros.data.datasets.flow import CHAIRS_SPLITS
from fg_depth_ros.data.io.formats import write_flo, write_image
from fg_depth_ros.files import atomic_write, refuse_present
from fg_depth_ros.synthesis.chairs import ChairsGenerator

TEST_SHARE = 640 / 22872
"""Share of test pairs in the published set."""


def write_chairs(
    out: str | Path, generator: ChairsGenerator, count: int, test_share: float = TEST_SHARE, batch: int = 1,
    track: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Path:  # fmt: skip
    """Write ``count`` pairs and the list that divides them into training and test; return the path of the list.

    ``out``/data holds 00001_img1.ppm, _img2.ppm, _flow.flo, _occ.png (255 = not visible in the second frame), ... ;
    ``out``/FlyingChairs_train_val.txt the list. Pairs are those with the numbers 0 .. count - 1 of ``generator``; which
    of them are for testing (``test_share``) depends on its seed. Every file appears complete, a pair's flow last; the
    list comes when all pairs are there. ``batch``: pairs that are rendered at once. ``track`` wraps the numbers of the
    batches.

    Raises ValueError: a count or share out of range. Raises FileError: the folder holds pairs or cannot be written to.
    """
    if not 1 <= count <= 99_999:
        raise ValueError(f"count is {count}; 1 .. 99999 pairs can be written (their names have five digits)")
    if not 0 <= test_share <= 1:
        raise ValueError(f"the share of test pairs is {test_share}; it lies within 0 .. 1")
    out, data = Path(out), Path(out) / "data"
    refuse_present(data, "pairs", "*_flow.flo")
    listed = out / CHAIRS_SPLITS[0]
    for start in track(range(0, count, batch)):
        _write_batch(data, generator, range(start, min(start + batch, count)))
    parts = np.ones(count, int)
    chosen = np.random.default_rng([generator.seed, 0, 1]).permutation(count)[: round(count * test_share)]
    parts[chosen] = 2
    with atomic_write(listed, sync=False) as path:
        path.write_text("".join(f"{part}\n" for part in parts))
    return listed


def _write_batch(data: Path, generator: ChairsGenerator, numbers: range) -> None:
    pairs = generator.batch(numbers)
    for i, number in enumerate(numbers):
        stem = f"{number + 1:05d}"
        first, second, flow = (
            field[i].permute(1, 2, 0).cpu().numpy() for field in (pairs.first, pairs.second, pairs.flow)
        )
        hidden = pairs.occluded[i, 0].cpu().numpy().astype(np.uint8) * 255
        for name, picture in (("img1.ppm", first), ("img2.ppm", second), ("occ.png", hidden)):
            write_image(data / f"{stem}_{name}", picture)
        write_flo(data / f"{stem}_flow.flo", flow)
