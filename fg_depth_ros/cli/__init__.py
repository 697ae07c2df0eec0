"""``fg-depth``: the package's command line. Every command imports what it needs when it runs."""

from __future__ import annotations

import sys

from rich.text import Text

from fg_depth_ros.cli import (
    ablate,
    bag,
    bag_images,
    deploy,
    depth,
    distill,
    finetune,
    flow,
    play,
    record,
    recover,
    replay,
    running,
    stereo,
    synth,
    training,
    weights,
)
from fg_depth_ros.cli.app import app, console

__all__ = [
    "ablate",
    "app",
    "bag",
    "bag_images",
    "deploy",
    "depth",
    "distill",
    "finetune",
    "flow",
    "main",
    "play",
    "record",
    "recover",
    "replay",
    "running",
    "stereo",
    "synth",
    "training",
    "weights",
]


def main() -> None:
    """Entry point: errors that name their cause are one line, not a traceback."""
    try:
        app()
    except OSError as error:
        if error.errno is None:
            raise  # no word of the system
        where = f"{error.filename}: " if error.filename is not None else ""
        text = f"fg-depth: {where}{error.strerror}; check the path, its permissions and the free space"
        console.print(Text(text, style="red"), soft_wrap=True)
        sys.exit(1)
    except Exception as error:
        ours = type(error).__module__.startswith("fg_depth_ros.")
        if not ours and not isinstance(error, (ValueError, FloatingPointError)):
            raise  # a defect, not a user's mistake: show all of it
        console.print(Text(f"fg-depth: {error}", style="red"), soft_wrap=True)
        sys.exit(1)
