"""Options generated from configuration dataclasses, and commands that are imported only when invoked."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from fg_depth_ros.cli import COMMANDS, RENAMED
from fg_depth_ros.cli.options import Settings, Without, expand, field_docs, given_options


@dataclass(frozen=True)
class Base:
    folder: str = "runs"
    """Folder of the results."""
    steps: int = 3
    """Length in steps;
    0: none."""
    graft: bool = True
    """Mix samples."""


@dataclass(frozen=True)
class Config(Base):
    steps: int = 7
    """Length."""
    names: tuple[str, ...] = ()
    """A name; may be repeated."""
    shapes: tuple[tuple[int, int], ...] = field(default=((8, 8),), metadata={"option": "shape"})
    """A size."""
    sparse: bool = False
    """The truth is sparse."""
    nested: Base = field(default_factory=Base)
    """No option."""
    secret: int = 0
    """Left out by the command."""


@dataclass(frozen=True)
class Other:
    steps: int = 1
    """Shared with Config."""
    weight: float = 0.5
    """Weight of something."""


SHAPED = Config(steps=9, sparse=True)


def invoke(*arguments: str) -> tuple[object, ...]:
    found: list[object] = []

    def command(
        config: Annotated[Settings[Config], Without(["secret"])],
        other: Settings[Other],
        folder: Annotated[str, typer.Option(help="The command's own.")] = "here",
    ) -> None:
        """Do it."""
        found.extend((config, config(), other(), folder))

    app = typer.Typer()
    app.command()(expand(command))
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    return (result.exit_code, result.output, *found)


def test_without_options_the_configuration_has_its_own_defaults() -> None:
    _, _, given, config, other, folder = invoke()
    assert (given.keywords, config, other, folder) == ({}, Config(), Other(), "here")


def test_what_is_given_reaches_every_configuration_that_has_the_field() -> None:
    _, _, given, config, other, folder = invoke(
        "--steps", "5", "--names", "a", "--names", "b", "--shape", "4x2", "--no-graft", "--sparse", "--folder", "there"
    )
    assert config == Config(steps=5, names=("a", "b"), shapes=((4, 2),), graft=False, sparse=True)
    assert other == Other(steps=5)
    assert folder == "there" and "folder" not in given.keywords


def test_a_value_that_equals_the_default_counts_as_given() -> None:
    assert invoke("--steps", "7")[2].keywords == {"steps": 7}


def test_a_configuration_in_the_annotation_has_the_defaults_that_the_help_shows() -> None:
    found: list[object] = []

    def command(context: typer.Context, config: Annotated[Settings[Config], SHAPED, Without(["secret"])]) -> None:
        """Do it."""
        found.extend((config.keywords, given_options(context, ["steps", "names", "sparse"])))

    app = typer.Typer()
    app.command()(expand(command))
    result = CliRunner().invoke(app, ["--names", "a", "--steps", "9"], catch_exceptions=False)
    assert (result.exit_code, found) == (0, [{"names": ("a",), "steps": 9}, ["--steps", "--names"]])
    assert "default: 9" in CliRunner().invoke(app, ["--help"]).output


def test_rare_options_are_in_a_panel_below_the_others_and_values_have_a_word_of_the_shell(run: object) -> None:
    for words in ("view", "rectify", "promote", "infer", "evaluate stereo", "evaluate depth", "replay", "finetune"):
        status, text = run(*words.split(), "--help")  # type: ignore[operator]
        common, panel, topics = text.partition(" Bags and raw pairs ")
        assert status == 0 and panel, words
        for option in ("--left TOPIC", "--right-info TOPIC", "--slop FLOAT", "--stamps header|recorded"):
            assert option in " ".join(topics.split()), (words, option)
            assert f" {option.split()[0]} " not in common.replace("`", " ").partition("Options")[2], (words, option)
        assert not re.search(r"^\W*--.*(<\w+>|list\[)", text, re.M), words


@pytest.mark.parametrize("option", ["--secret", "--nested", "--no-sparse", "--shapes"])
def test_what_is_no_option_is_refused(option: str) -> None:
    code, output, *_ = invoke(option, "1")
    assert code == 2 and option in output


def test_help_and_defaults_come_from_the_fields() -> None:
    output = " ".join(invoke("--help")[1].split())
    assert "Length." in output and "default: 7" in output and "The command's own." in output
    assert field_docs(Config)["steps"] == "Length." and field_docs(Config)["graft"] == "Mix samples."


def test_a_size_that_is_none_is_named() -> None:
    code, output, *_ = invoke("--shape", "4")
    assert code == 2 and "4" in output and "WIDTHxHEIGHT" in output


@pytest.mark.parametrize("old", sorted(RENAMED))
def test_an_option_of_before_is_refused_with_its_name_of_today(run: object, old: str) -> None:
    status, text = run("distill", old, "x")  # type: ignore[operator]
    assert status == 2 and RENAMED[old] in text


def test_no_option_of_today_is_refused_as_one_of_before(run: object) -> None:
    for commands in COMMANDS.values():
        for name, entry in commands.items():
            for words in [[name, each] for each in entry.commands] if hasattr(entry, "commands") else [[name]]:
                _, text = run(*words, "--help")  # type: ignore[operator]
                assert not set(re.findall(r"--[a-z][\w-]*", text)) & RENAMED.keys(), words


def test_every_command_of_the_overview_can_be_imported(run: object) -> None:
    for commands in COMMANDS.values():
        for name, entry in commands.items():
            below = [[name, each] for each in entry.commands] if hasattr(entry, "commands") else [[name]]
            for words in below:
                status, text = run(*words, "--help")  # type: ignore[operator]
                assert status == 0 and "Usage: fg-depth " + " ".join(words) in text, (words, text)
                assert "Example" in text and f"fg-depth {' '.join(words)}" in text.partition("Example")[2], words


def test_the_overview_imports_no_command() -> None:
    code = (
        "import sys; sys.argv = ['fg-depth', '--help']\n"
        "from fg_depth_ros import cli\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print('MODULES', sorted(name for name in sys.modules if name.startswith('fg_depth_ros') or name == 'torch'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modules = set(re.findall(r"'([\w.]+)'", done.stdout.rpartition("MODULES")[2]))
    assert modules == {"fg_depth_ros", *(f"fg_depth_ros.{name}" for name in ("cli", "cli.app", "cli.options", "files"))}


def test_the_options_of_no_command_need_pytorch() -> None:
    words = [
        [name, each] if hasattr(entry, "commands") else [name]
        for commands in COMMANDS.values()
        for name, entry in commands.items()
        for each in getattr(entry, "commands", [""])
    ]
    code = (
        "import sys; from fg_depth_ros import cli\n"
        f"for words in {words}:\n"
        "    cli.application(words)\n"
        "    assert 'torch' not in sys.modules, words"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "words", [("world", "--size", "10000000x1"), ("world", "--size", "0x8"), ("stereo", "--width", "10000000")]
)
def test_sizes_without_sense_are_refused_before_anything_is_made(run, tmp_path, words):
    status, text = run("synth", *words, "--out", tmp_path / "out")
    assert status == 2 and "each side must be 1 to 8192 px" in " ".join(text.replace("\u2502", "").split())
    assert not (tmp_path / "out").exists()
