"""``fg-depth``: the package's command line. Only the command that is invoked is imported."""

from __future__ import annotations

import io
import locale
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

from fg_depth_ros import __version__
from fg_depth_ros.cli.app import say
from fg_depth_ros.cli.options import expand
from fg_depth_ros.files import WriteError

_RUN, _MEASURE, _TRAIN, _RECORD, _DEPLOY = "Run", "Measure", "Train", "Record and play", "Deploy"


class _Entry(NamedTuple):
    """A command in the overview, before it is imported."""

    where: str
    """``module:function`` below this package."""
    summary: str


class _HelpFlag:
    """Let the help show ``--help`` as a flag, without the type of its value."""

    def get_help_option(self, context: Any) -> Any:
        option = super().get_help_option(context)  # type: ignore[misc]
        if option is not None:
            option.metavar = ""
        return option


class _CommandHelp(_HelpFlag, TyperCommand):
    pass


class _GroupHelp(_HelpFlag, TyperGroup):
    pass


class _Group(NamedTuple):
    """Commands below a common word."""

    summary: str
    commands: dict[str, _Entry]


COMMANDS: dict[str, dict[str, _Entry | _Group]] = {
    _RUN: {
        "demo": _Entry("run:demo", "Play a stereo pair into the node and look at the depth that comes out."),
        "infer": _Entry("run:infer", "Compute disparity, depth and a point cloud of pairs."),
        "rectify": _Entry("run:rectify", "Rectify raw pairs by a calibration."),
        "flow": _Entry("run:flow", "Compute the optical flow between two frames."),
        "view": _Entry("view:view", "Show images, depth and cloud in a browser: of live topics, a bag or pairs."),
        "doctor": _Entry("run:doctor", "Check this machine: versions, device, weights, ROS, transport."),
    },
    _MEASURE: {
        "evaluate": _Group(
            "Measure accuracy on data sets.",
            {
                "stereo": _Entry("evaluate:stereo", "Evaluate learned stereo and SGBM on pairs with true disparity."),
                "flow": _Entry("evaluate:flow", "Evaluate learned and classical flow on pairs with true flow."),
                "uncertainty": _Entry("evaluate:uncertainty", "Evaluate the uncertainty of the stereo network."),
                "depth": _Entry(
                    "evaluate:depth", "Evaluate depth from one image and from stereo on images with true depth."
                ),
            },
        ),
        "replay": _Entry("replay:replay", "Evaluate weights on every pair of recorded bags."),
        "replay-live": _Entry("replay:replay_live", "Play bags into the node and measure it."),
        "bench": _Entry("bench:bench", "Measure latency, throughput and memory of models and of the node."),
        "bench-recording": _Entry("bench:recording", "Measure what recording costs on this machine."),
        "ablate": _Group(
            "Measure what each loss of the depth training contributes.",
            {
                "figure3": _Entry(
                    "ablate:figure3", "Find the depth at which each loss is smallest, on a wall of known depth."
                ),
                "losses": _Entry("ablate:losses", "Train every row of the paper's ablation and evaluate them."),
            },
        ),
    },
    _TRAIN: {
        "train": _Group(
            "Train networks.",
            {
                "stereo": _Entry("train:stereo", "Train the stereo network on synthetic scenes."),
                "flow": _Entry("train:flow", "Train a flow network on scenes or on pairs."),
            },
        ),
        "distill": _Entry("train:distill", "Train depth from one image on stereo pairs, without labels."),
        "finetune": _Entry("finetune:finetune", "Fine-tune a network on recordings, without labels."),
        "synth": _Group(
            "Make synthetic data.",
            {
                "stereo": _Entry("synth:stereo", "Write synthetic pairs with exact disparity and occlusion."),
                "chairs": _Entry("synth:chairs", "Write pairs in the layout of the Flying Chairs, with exact flow."),
                "world": _Entry("synth:world", "Write stereo pairs of virtual streets and rooms, with exact depth."),
            },
        ),
        "quantize": _Entry("quantize:quantize", "Calibrate weights for int8."),
        "import": _Entry("deploy:import_weights", "Convert published weights into a file for --weights."),
    },
    _RECORD: {
        "bag": _Group(
            "Check and make bags.",
            {
                "check": _Entry("bags:check", "Check rates, gaps, exposure and calibration of recordings."),
                "from-images": _Entry("bags:from_images", "Write a folder of stereo pairs as a bag."),
            },
        ),
        "play": _Entry("bags:play", "Play bags on ROS topics."),
        "recover": _Entry("bags:recover", "Complete recordings that were cut off."),
    },
    _DEPLOY: {
        "promote": _Entry("deploy:promote", "Deploy weights unless they are worse than those in use."),
        "rollback": _Entry("deploy:rollback", "Roll back to the weights used before."),
        "compile": _Entry("export:compile", "Compile networks for a camera before the node's first start."),
        "export": _Entry("export:export", "Export a network as ONNX and OpenVINO IR for other programs."),
        "deployed": _Entry("deploy:deployed", "Show the weights in use and their history."),
    },
}
"""Panel of the overview -> name -> command."""

RENAMED = {
    "--grow": "--load-partial",
    "--leaving": "--anchor",
    "--validation-pairs": "--validation-scenes",
    "--watch-frames": "--test-frames",
}
"""Options by the names that they had before."""


def application(words: Sequence[str]) -> typer.Typer:
    """Build the command line: the command that the words (without options) name is imported, the others are stubs."""
    app = typer.Typer(
        cls=_GroupHelp,
        no_args_is_help=True,
        add_completion=False,
        rich_markup_mode="markdown",
        help="Learned stereo depth for ROS 2.",
    )
    app.callback()(_root)
    for panel, commands in COMMANDS.items():
        for name, entry in commands.items():
            invoked = words[:1] == [name]
            if isinstance(entry, _Entry):
                app.command(name, cls=_CommandHelp, rich_help_panel=panel)(_function(entry, invoked))
                continue
            group = typer.Typer(cls=_GroupHelp, no_args_is_help=True, rich_markup_mode="markdown", help=entry.summary)
            for below, each in entry.commands.items():
                group.command(below, cls=_CommandHelp)(_function(each, invoked and words[1:2] == [below]))
            app.add_typer(group, name=name, rich_help_panel=panel)
    return app


def _function(entry: _Entry, invoked: bool) -> Callable[..., Any]:
    if invoked:
        module, _, name = entry.where.partition(":")
        return expand(getattr(import_module(f"{__name__}.{module}"), name))

    def stub() -> None:
        raise AssertionError(f"{entry.where} is invoked and was not imported")

    stub.__doc__ = entry.summary
    return stub


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"fg-depth {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, metavar="", help="Show the version and exit."
        ),
    ] = False,
) -> None:
    pass


def _use_locale() -> None:
    """Write what the terminal's locale can show: under ``LC_ALL=C`` Python writes UTF-8, and lines become rubbish."""
    encoding = locale.nl_langinfo(locale.CODESET)
    for stream in (sys.stdout, sys.stderr):
        if "UTF" not in encoding.upper() and isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding=encoding, errors="backslashreplace")


def main() -> None:
    """Run the command line; errors that name their cause are one line, not a traceback."""
    _use_locale()
    arguments = sys.argv[1:]
    for argument in arguments:
        option = argument.partition("=")[0]
        if option in RENAMED:
            say(f"fg-depth: {option} is named {RENAMED[option]} now", "red")
            sys.exit(2)
    try:
        application([word for word in arguments if not word.startswith("-")])(prog_name="fg-depth")
    except OSError as error:
        if error.errno is None:
            raise  # no word of the system
        where = f"{error.filename}: " if error.filename is not None else ""
        known = isinstance(error, WriteError)
        text = str(error) if known else f"{where}{error.strerror}; check the path, its permissions and the free space"
        say(f"fg-depth: {text}", "red")
        sys.exit(1)
    except Exception as error:
        ours = type(error).__module__.startswith("fg_depth_ros.")
        if not ours and not isinstance(error, (ValueError, FloatingPointError)):
            raise  # a defect, not a user's mistake: show all of it
        say(f"fg-depth: {error}", "red")
        sys.exit(1)
