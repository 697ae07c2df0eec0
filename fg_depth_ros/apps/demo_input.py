"""What `fg-depth demo` plays: found out, or rendered, before any process is started."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from fg_depth_ros.data.io.formats import FileError
from fg_depth_ros.geometry import RigError
from fg_depth_ros.nodes.players.source import MOTORCYCLE, PairSource, write_drive
from fg_depth_ros.synthesis.world.drive import DRIVES

ASSUMED_BASELINE = 0.1  # m, for pairs without calibration; said so in the output
WORLD_FRAMES = 12  # of a virtual world; played again and again


@dataclass
class DemoInput:
    """What is played, found out before any process starts."""

    pairs: str
    name: str
    size: str
    count: int
    truth: bool
    seconds: float
    rate: float
    parameters: dict[str, Any] = field(default_factory=dict)


def check_options(seconds: float, rate: float, width: int, world: str, pairs: str) -> None:
    """Raises ValueError with the way out for options that make no sense."""
    if not (0.0 < seconds <= 86400.0 and 0.01 <= rate <= 1000.0 and 0 <= width <= 16384):
        raise ValueError(
            f"seconds = {seconds:g}, rate = {rate:g} Hz, width = {width} px: give seconds above 0, a rate from 0.01 to "
            "1000 and a width from 0 to 16384"
        )
    if world and world not in DRIVES:
        raise ValueError(f"there is no virtual world '{world}': choose one of {', '.join(DRIVES)}")
    if world and pairs != MOTORCYCLE:
        raise ValueError(f"world '{world}' and pairs '{pairs}' are two things to play: leave one of them out")


def render_world(folder: Path, world: str, width: int, console: Console) -> str:
    """A drive through a virtual world, in a folder of pairs."""
    with live_line(console, "rendering the virtual world") as tell:

        def track(numbers: Iterable[int]) -> Iterator[int]:
            for number in numbers:
                tell(f"rendering the virtual world: {number} of {WORLD_FRAMES} frames")
                yield number

        write_drive(folder, world, width=width, frames=WORLD_FRAMES, track=track)
    return str(folder)


def inspect_pairs(pairs: str, seconds: float, rate: float, width: int, console: Console) -> DemoInput:
    """Look at the input before anything is started; raises FileError with the way out."""
    try:
        source = PairSource(pairs, width=width)
        parameters: dict[str, Any] = {}
    except FileError as error:
        if "no calibration" not in str(error):
            raise
        focal = float(_first_width(pairs))
        parameters = {"focal": focal, "baseline": ASSUMED_BASELINE}
        source = PairSource(pairs, width=width, **parameters)
        console.print(
            f"[yellow]no calibration found beside the pairs: metres are guesses (focal length {focal:g} px, baseline "
            f"{ASSUMED_BASELINE} m). Put a calib.txt or rig.json into {pairs} for real ones.[/yellow]"
        )
    name = source.samples[0].name if len(source) == 1 else Path(pairs).expanduser().resolve().name
    rig = _first_readable(source).rig
    truth = source.has_truth
    console.print(
        f"[bold]{name}[/bold]: {len(source)} pair(s), {rig.width}x{rig.height} px, focal length {rig.fx:.1f} px, "
        f"baseline {rig.baseline:.4f} m, {'with' if truth else 'without'} true depth",
        soft_wrap=True,
    )
    return DemoInput(
        pairs, name, f"{rig.width}x{rig.height}", len(source), truth, seconds, rate, {**parameters, "width": width}
    )


def _first_width(pairs: str) -> int:
    from fg_depth_ros.data.datasets.stereo import open_stereo_folder
    from fg_depth_ros.data.io.formats import image_size

    left = open_stereo_folder(Path(pairs).expanduser())[0].left
    assert isinstance(left, Path)
    return image_size(left)[0]


def _first_readable(source: PairSource) -> Any:
    error: Exception = FileError("no pair")
    for index in range(len(source)):
        try:
            return source.load(index)
        except (FileError, RigError) as found:
            error = found
    raise error


@contextlib.contextmanager
def live_line(console: Console, first: str) -> Iterator[Any]:
    """A line that is written over on a terminal, and left out elsewhere (the last one is printed anyway)."""
    if not console.is_terminal:
        yield lambda text: None
        return
    with Live(Text(first), console=console, transient=True, refresh_per_second=8) as live:
        yield lambda text: live.update(Text(text))
