"""Commands about recordings: ``fg-depth bag check``, ``bag from-images``, ``play`` and ``recover``."""

from __future__ import annotations

import json as json_module
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fg_depth_ros.cli.app import chosen_frames, console, counted, one_rig, progress, say
from fg_depth_ros.cli.options import Bags, Calibration, PlayRate, Settings, SideBySide, file_to_write
from fg_depth_ros.data.bags.topics import PairTopics

if TYPE_CHECKING:
    import numpy as np

    from fg_depth_ros.data.samples import StereoSample

_RATE = 10.0  # Hz
_START = 1.0  # s; a stamp of zero would read as "no stamp"
_NARROWEST = 40  # columns
_RULE = re.compile(r"[\w/~{}:]+:=[\w/~{}]+")


def check(
    paths: Annotated[list[Path], typer.Argument(help="Bags, or folders of bags.")],
    topics: Settings[PairTopics],
    json: Annotated[
        Path | None, typer.Option("--json", callback=file_to_write, help="Also write what was found here.")
    ] = None,
) -> None:
    """Check rates, gaps, exposure and calibration of recordings; exit status 1 where one cannot be used.

    Example: `fg-depth bag check recordings`
    """
    from fg_depth_ros.data.bags.checks import check_bag
    from fg_depth_ros.data.bags.folders import bag_names, find_bags
    from fg_depth_ros.files import atomic_write

    options, found = topics().given(), find_bags(paths)
    named = zip(bag_names(found), found, strict=True)
    checked = [{"name": name, **check_bag(path, **options).to_dict()} for name, path in named]
    show_bags(checked)
    if json is not None:
        with atomic_write(json) as unfinished:
            unfinished.write_text(json_module.dumps(checked, indent=2) + "\n", encoding="utf-8")
        say(f"report: {json}")
    if not all(bag["usable"] for bag in checked):
        raise typer.Exit(1)


def from_images(
    folder: Annotated[Path, typer.Argument(help="Calibrated pairs: a folder, a bag, or a video (docs/data.md).")],
    topics: Settings[PairTopics],
    out: Annotated[Path, typer.Option(help="The bag's folder, which must not be there yet.")],
    rate: Annotated[
        float | None,
        typer.Option(help="Pairs per second of the recording.", show_default="the stamps of a bag, else 10"),
    ] = None,
    frames: Annotated[str, typer.Option(help="Part of the folder, such as 0:80; default: all.")] = "",
    start: Annotated[
        float | None, typer.Option(help="Stamp of the first pair, s.", show_default="that of a bag, else 1")
    ] = None,
    compressed: Annotated[str, typer.Option(help="Write CompressedImage: png (lossless) or jpeg.")] = "",
    storage: Annotated[str, typer.Option(help="mcap or sqlite3.")] = "mcap",
    side_by_side: SideBySide = False,
    calib: Calibration = None,
    truth: Annotated[bool, typer.Option(help="Write true depth on ground_truth/depth where the folder has it.")] = True,
) -> None:
    """Make a bag of pairs, also of a ROS 1 bag: left and right images, camera_infos and, where known, true depth.

    Pairs of a bag keep the stamps of their left images, unless --rate or --start is given.

    Example: `fg-depth bag from-images my_pairs --out my_bag --rate 10`
    """
    from fg_depth_ros.data.bags.writing import write_stereo_bag
    from fg_depth_ros.data.datasets.stereo import open_stereo

    for name, value, known in (
        ("compressed", compressed, ("", "png", "jpeg")),
        ("storage", storage, ("mcap", "sqlite3")),
    ):
        if value not in known:
            raise ValueError(f"--{name} '{value}' is unknown; choose one of {', '.join(filter(None, known))}")
    keep_stamps = rate is None and start is None
    rate, start = _RATE if rate is None else rate, _START if start is None else start
    if not (rate > 0 and start > 0):
        raise ValueError(f"--rate {rate:g} and --start {start:g} must be positive")
    samples = open_stereo(folder, calib, side_by_side=side_by_side, **topics().given())
    chosen = chosen_frames(samples, frames, folder)
    rig = one_rig(chosen, folder, "a bag of a stereo camera")
    stamps = [
        sample.stamp if keep_stamps and sample.stamp is not None else round((start + index / rate) * 1e9)
        for index, sample in enumerate(chosen)
    ]
    stamped = progress(list(zip(chosen, stamps, strict=True)), "writing")
    path = write_stereo_bag(
        out, _recorded(stamped, truth), rig, compressed=compressed, storage=storage,  # type: ignore[arg-type]
        frame_id="left_camera_optical_frame",
    )  # fmt: skip
    say(f"{counted(len(chosen), 'pair')} in {path}")


def play(
    bags: Bags,
    rate: PlayRate = 1.0,
    loop: Annotated[bool, typer.Option(help="Start again after the last message.")] = False,
    topic: Annotated[list[str], typer.Option(help="Play this topic only; may be repeated.")] = [],
    remap: Annotated[list[str], typer.Option(help="FROM:=TO, as ROS remaps; may be repeated.")] = [],
    clock: Annotated[bool, typer.Option(help="Publish the recording's time on /clock.")] = True,
    restart_clock: Annotated[bool, typer.Option(help="/clock goes back with a loop; else it goes on.")] = True,
    count: Annotated[int, typer.Option(help="Stop after this many messages; 0: all.")] = 0,
    wait: Annotated[int, typer.Option(help="Wait for this many subscribers of the stereo pair's topics.")] = 0,
    wait_timeout: Annotated[float, typer.Option(help="Give up waiting after this many seconds; 0: never.")] = 0.0,
) -> None:
    """Play bags on the topics that they were recorded from, where there is no `ros2 bag play`.

    Example: `fg-depth play recordings --rate 0.5 --remap /left/image_rect:=/cam/left/image_rect`
    """
    if wrong := [rule for rule in remap if not _RULE.fullmatch(rule)]:
        raise ValueError(f"--remap '{wrong[0]}' is no rule: give FROM:=TO, such as /left/image_rect:=/cam/image_rect")

    from fg_depth_ros.nodes.players.bag_player import main

    values = {
        "bags": [str(bag) for bag in bags], "topics": topic or [""], "rate": rate, "loop": loop, "count": count,
        "publish_clock": clock, "restart_clock": restart_clock, "wait_for_subscribers": wait,
        "wait_timeout": wait_timeout,
    }  # fmt: skip
    words = [word for name, value in values.items() for word in ("-p", f"{name}:={json_module.dumps(value)}")]
    words += [word for rule in remap for word in ("-r", rule)]
    raise typer.Exit(main(["--ros-args", *words]))


def recover(
    paths: Annotated[
        list[Path], typer.Argument(help="Recording folders (completed in place), or cut bags and .mcap files (copied).")
    ],
) -> None:
    """Complete recordings that were cut off, with every whole message; exit status 1 where something is left to do.

    Example: `fg-depth recover recordings`
    """
    from fg_depth_ros.files import FileError
    from fg_depth_ros.recording import recover as complete

    failed = False
    for path in paths:
        try:
            found = complete(path)
        except FileError as error:  # the other paths are still done
            say(str(error), "red")
            failed = True
            continue
        if not found:
            say(f"{path}: nothing to recover{_others(path)}")
        for entry in found:
            failed |= not entry.done
            lost = f", {entry.lost_bytes:,} bytes without a whole message" if entry.lost_bytes else ""
            say(f"{entry.name}: {entry.messages:,} messages{lost}; {entry.note}", "" if entry.done else "red")
    if failed:
        raise typer.Exit(1)


def show_bags(bags: Iterable[Mapping[str, Any]]) -> None:
    """Print of every bag its name, what it holds and what is wrong with it, in lines that a narrow terminal shows."""
    bags = list(bags)
    say(f"{sum(bag['usable'] for bag in bags)} of {counted(len(bags), 'bag')} can be used", "bold")
    for bag in bags:
        say(f"\n{bag['name']}", "bold")
        for line in _contents(bag):
            _say_indented(", ".join(line))
        for problem in bag["problems"]:
            colour = "red" if problem["severity"] == "leave out" else "yellow"
            _say_indented(f"{problem['severity']}: {problem['text'].removeprefix(bag['path'] + ': ')}", colour)


def _contents(bag: Mapping[str, Any]) -> tuple[list[str], ...]:
    """Return what a checked bag holds, in parts of lines."""
    if not bag["pairs"]:
        return (["no pairs"],)
    rig, exposure, (left, right) = bag["rig"], bag["exposure"], bag["unpaired"]
    held = [
        f"{counted(bag['pairs'], 'pair')} in {bag['seconds']:.1f} s",
        f"{rig['width']}x{rig['height']} {bag['encodings'][0]}",
    ]
    if bag["rate"] is not None:
        held[1:1] = [f"{bag['rate']:.1f} Hz", f"largest gap {bag['largest_gap']:.2f} s"]
    matched = [f"unpaired {left} left {right} right", f"stamps within {1000 * bag['slack']:.1f} ms"]
    if exposure is None:
        return held, matched
    seen = [f"{100 * exposure[what]:.0f} % {what}" for what in ("dark", "bright")]
    return held, matched, [*seen, f"brightness left/right {exposure['ratio']:.2f}"]


def _say_indented(text: str, style: str = "") -> None:
    """Print a text below a heading, wrapped at the width of the console; paths and topics stay in one piece."""
    wrapped = textwrap.wrap(
        text, max(console.width, _NARROWEST), initial_indent="  ", subsequent_indent="    ", break_long_words=False,
        break_on_hyphens=False,
    )  # fmt: skip
    for line in wrapped:
        say(line, style)


def _others(folder: Path) -> str:
    """Name bags below a recording folder that are none of its episodes."""
    from fg_depth_ros.data.bags.folders import find_bags
    from fg_depth_ros.files import FileError
    from fg_depth_ros.recording.manifest import read_episode

    try:
        bags = [bag for bag in find_bags([folder]) if not (bag.is_dir() and read_episode(bag))]
    except FileError:  # none at all
        return ""
    if not bags:
        return ""
    return f"; {len(bags)} bag(s) of other recorders were not looked at: name them, such as {bags[0]}"


def _recorded(stamped: Iterable[tuple[StereoSample, int]], with_truth: bool) -> Iterator[StereoSample]:
    """Yield the pairs as they are recorded: grey until the first image with colours, RGB from there on."""
    grey = True
    for sample, stamp in stamped:
        left, right = sample.images()
        grey = grey and _is_grey(left) and _is_grey(right)
        if grey:
            left, right = left[..., 0].copy(), right[..., 0].copy()
        depth = sample.true_depth() if with_truth else None
        yield replace(sample, left=left, right=right, disparity=None, depth=depth, stamp=stamp)


def _is_grey(image: np.ndarray) -> bool:
    return bool((image[..., :1] == image).all())
