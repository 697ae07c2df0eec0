"""``fg-depth recover``: valid bags from what a crash, a power cut or a full disk left."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fg_depth_ros.cli.app import app, console


@app.command("recover")
def recover_recordings(
    paths: Annotated[
        list[Path], typer.Argument(help="Recording folders (completed in place), or cut bags and .mcap files (copied).")
    ],
) -> None:
    """Complete recordings that were cut off, with every whole message; exit status 1 where something is left to do."""
    from fg_depth_ros.data.io.formats import FileError
    from fg_depth_ros.recording import recover

    failed = False
    for path in paths:
        try:
            found = recover(path)
        except FileError as error:  # the other paths are still done
            console.print(str(error), style="red", highlight=False, soft_wrap=True, markup=False)
            failed = True
            continue
        if not found:
            text = f"{path}: nothing to recover{_others(path)}"
            console.print(text, highlight=False, soft_wrap=True, markup=False)
        for entry in found:
            failed |= not entry.done
            lost = f", {entry.lost_bytes:,} bytes without a whole message" if entry.lost_bytes else ""
            console.print(
                f"{entry.name}: {entry.messages:,} messages{lost}; {entry.note}",
                style="" if entry.done else "red", highlight=False, soft_wrap=True, markup=False,
            )  # fmt: skip
    if failed:
        raise typer.Exit(1)


def _others(folder: Path) -> str:
    """Bags below a recording folder that are none of its episodes, in words."""
    from fg_depth_ros.data.bags.folders import find_bags
    from fg_depth_ros.data.io.formats import FileError
    from fg_depth_ros.recording.manifest import read_episode

    try:
        bags = [bag for bag in find_bags([folder]) if not (bag.is_dir() and read_episode(bag))]
    except FileError:  # none at all
        return ""
    if not bags:
        return ""
    return f"; {len(bags)} bag(s) of other recorders were not looked at: name them, such as {bags[0]}"
