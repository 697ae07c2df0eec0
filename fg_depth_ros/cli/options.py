"""Command options: those that several commands share, and those generated from configuration dataclasses.

A command whose parameter is annotated ``Settings[SomeConfig]`` gets one option per field of that dataclass: the name of
the field, its default, and its docstring as help. The command receives a ``functools.partial`` of the dataclass with
what the user gave, and calls it, with further fields where it has some of its own. So an option is written once, where
its value is used.
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import functools
import inspect
import os
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.models import OptionInfo

from fg_depth_ros.files import FileError, WriteError

Settings = functools.partial
"""``make_config: Settings[Config]`` stands for the options of ``Config``; ``make_config()`` makes one of them."""
_CONTEXT = "typer_context"
_METAVARS = {Path: "PATH", str: "TEXT", int: "INTEGER", float: "FLOAT", bool: ""}
LARGEST_SIDE = 8192
"""Largest width or height that an option may give, px."""


class Without(tuple[str, ...]):
    """Fields that are no options of a command: ``Annotated[Settings[Config], Without(["width", "height"])]``."""


def folder_to_write(folder: Path | None) -> Path | None:
    """Return the folder of an option, which the results of long work are to be written to; nothing is made.

    Raises FileError: it, or what should be a folder above it, is a file. Raises WriteError: it cannot be written.
    """
    if folder is not None:
        there = next(place for place in (folder, *folder.absolute().parents) if os.path.lexists(place))
        if not there.is_dir():
            raise FileError(f"{there}: is a file, not a folder; name another one")
        if not os.access(there, os.W_OK | os.X_OK):
            raise WriteError(errno.EACCES, os.strerror(errno.EACCES), str(there))
    return folder


def file_to_write(file: Path | None) -> Path | None:
    """Return the file of an option, checked as ``folder_to_write`` does. Raises FileError, too: it is a folder."""
    if file is not None:
        if file.is_dir():
            raise FileError(f"{file}: is a folder, not a file; give the name of the file to write")
        folder_to_write(file.absolute().parent)
    return file


def scale_in_range(scale: float) -> float:
    """Return the scale of an option. Raises ValueError: out of range."""
    from fg_depth_ros.inference.config import check_scale

    check_scale("--scale", scale)
    return scale


Model = Annotated[str, typer.Option(help="Stereo or flow network, sgbm or bm.")]
Weights = Annotated[str, typer.Option(help="Weights file; default: the shipped weights.")]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda:N.")]
Engine = Annotated[str, typer.Option(help="Engine of the network: auto, torch, openvino, onnxruntime, tensorrt.")]
Precision = Annotated[str, typer.Option(help="auto, float32, bfloat16, float16 or int8.")]
Json = Annotated[
    Path | None,
    typer.Option("--json", callback=file_to_write, help="Also write the report here (docs/report_schema.md)."),
]
Scale = Annotated[
    float,
    typer.Option(callback=scale_in_range, help="Resize by this for matching; below 1 reaches larger disparities."),
]
AutoScale = Annotated[
    str, typer.Option(help="Resize by this for matching; below 1 reaches nearer; auto: as far as --min-depth.")
]
MinDepth = Annotated[float, typer.Option(help="Nearer depth is left out, m.")]
MinDisparity = Annotated[str, typer.Option(help="Where the search begins, px; auto: where the rig sees infinity.")]
Photos = Annotated[list[Path], typer.Option(help="Folder of pictures for the surfaces; may be repeated.")]
Cutouts = Annotated[list[Path], typer.Option(help="Folder of cut-out pictures with alpha; may be repeated.")]
Real = Annotated[list[Path], typer.Option(help="Further data set to validate on (not trained on); may be repeated.")]
FlowScale = Annotated[
    float,
    typer.Option(callback=scale_in_range, help="Resize the frames by this; below 1 is faster and reaches farther."),
]
Bags = Annotated[list[Path], typer.Argument(help="Bags, or folders of bags, played one after the other.")]
SideBySide = Annotated[
    bool, typer.Option("--side-by-side", help="Each image or video has the left view in its left half.")
]
Calibration = Annotated[
    Path | None, typer.Option("--calib", help="Calibration file or folder (docs/data.md); default: next to the images.")
]
PlayRate = Annotated[float, typer.Option(help="How many times as fast as it was recorded.")]
Sheets = Annotated[Path | None, typer.Option(callback=folder_to_write, help="Folder for a picture per data set.")]


def min_disparity_of(text: str) -> int | str:
    """Parse ``auto`` or a whole number. Raises typer.BadParameter: anything else."""
    try:
        return text if text == "auto" else int(text)
    except ValueError:
        raise typer.BadParameter(f"min-disparity '{text}' is neither auto nor a whole number of pixels") from None


def scale_of(text: str) -> float | str:
    """Parse ``auto`` or a number. Raises typer.BadParameter: anything else. Raises ValueError: out of range."""
    from fg_depth_ros.inference.config import check_scale

    try:
        scale = text if text == "auto" else float(text)
    except ValueError:
        raise typer.BadParameter(f"scale '{text}' is neither auto nor a number") from None
    check_scale("--scale", scale, auto=True)
    return scale


def image_size_of(text: str) -> tuple[int, int]:
    """Parse ``640x480`` as (width, height). Raises typer.BadParameter: another form, or a size without sense."""
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise typer.BadParameter(f"size '{text}' is not WIDTHxHEIGHT, such as 640x480") from None
    return checked_size(width, height)


def checked_size(width: int, height: int) -> tuple[int, int]:
    """Return a size in px. Raises typer.BadParameter: a side is not in 1 to ``LARGEST_SIDE``."""
    if not (1 <= width <= LARGEST_SIDE and 1 <= height <= LARGEST_SIDE):
        raise typer.BadParameter(f"size {width}x{height}: each side must be 1 to {LARGEST_SIDE} px")
    return width, height


def check_least(least: int, **values: float) -> None:
    """Raise ValueError, naming the option, where one of these values is below ``least``."""
    for name, value in values.items():
        if not value >= least:
            bound = f"at least {least}" if least else "0 or more"
            raise ValueError(f"--{name.replace('_', '-')} must be {bound}, got {value}")


def given_options(context: typer.Context, names: Iterable[str]) -> list[str]:
    """Return the flags of those options that were given, even with their default, of these parameters of a command."""
    return [f"--{name.replace('_', '-')}" for name in names if _is_given(context, name)]


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name != "DEFAULT"


def expand(function: Callable[..., Any]) -> Callable[..., Any]:
    """Replace every ``Settings[Config]`` parameter of a command by one option per field of ``Config``.

    The command receives a partial of ``Config`` with what the user gave and nothing else, so that defaults, also those
    of a preset, stay those of the dataclass. Fields of one name in several configurations are one option. A field is no
    option where the command has a parameter of that name, where ``Without`` names it, or where its type is a mapping or
    another dataclass; ``metadata={"option": "split"}`` gives the option another name than the field. The help shows
    the defaults of the dataclass, or those of the instance in ``Annotated[Settings[Config], Config(...)]``, which the
    command then uses. ``metadata={"metavar": "TOPIC"}`` names the value of an option, and ``Config.PANEL`` the panel of
    the help that has its options. A parameter that is a ``typer.Context`` receives the context.

    Returns the command with the expanded signature, as typer reads it.
    """
    hints = get_type_hints(function, include_extras=True)
    own = inspect.signature(function).parameters
    configs, defaults, left_out, contexts = {}, {}, {}, []
    for name in own:
        settings, *marks = get_args(hints[name]) if get_origin(hints[name]) is Annotated else (hints[name],)
        if get_origin(settings) is functools.partial:
            (configs[name],) = get_args(settings)
            left_out[name] = {field for mark in marks if isinstance(mark, Without) for field in mark}
            defaults[name] = next((mark for mark in marks if isinstance(mark, configs[name])), None)
        elif settings is typer.Context:
            contexts.append(name)
    keyword = inspect.Parameter.KEYWORD_ONLY
    options = {_CONTEXT: inspect.Parameter(_CONTEXT, keyword, annotation=typer.Context)}
    targets: dict[str, list[tuple[str, str]]] = {}  # option -> (the command's parameter, field)
    for name, parameter in own.items():
        if name in contexts:
            continue
        if name not in configs:
            options[name] = parameter.replace(annotation=hints[name], kind=keyword)
            continue
        for field, option in _options_of(configs[name], defaults[name]):
            if option.name not in own and field not in left_out[name]:
                options.setdefault(option.name, option)
                targets.setdefault(option.name, []).append((name, field))

    @functools.wraps(function)
    def command(**values: Any) -> Any:
        given: dict[str, dict[str, Any]] = {name: {} for name in configs}
        context = values.pop(_CONTEXT)
        values |= dict.fromkeys(contexts, context)
        for option, fields in targets.items():
            value = values.pop(option)
            if _is_given(context, option):
                for name, field in fields:
                    given[name][field] = tuple(value) if isinstance(value, list) else value
        return function(**values, **{name: functools.partial(each, **given[name]) for name, each in configs.items()})

    for each in options.values():
        _name_value(each.annotation)
    del command.__wrapped__  # type: ignore[attr-defined]
    command.__signature__ = inspect.Signature(list(options.values()))  # type: ignore[attr-defined]
    command.__annotations__ = {name: each.annotation for name, each in options.items()}
    return command


def _name_value(annotation: Any) -> None:
    """Let the help name the value of an option as shells do, not by its Python type."""
    hint, *marks = get_args(annotation) if get_origin(annotation) is Annotated else (annotation,)
    for mark in marks:
        if isinstance(mark, OptionInfo) and mark.metavar is None:
            mark.metavar = next((word for kind, word in _METAVARS.items() if kind in (hint, *get_args(hint))), None)


def _options_of(config: type[Any], defaults: Any) -> Iterator[tuple[str, inspect.Parameter]]:
    """Yield field name and command parameter of every field that can be an option; ``defaults``: a config, or None."""
    hints, docs = get_type_hints(config), field_docs(config)
    for field in dataclasses.fields(config):
        name = field.metadata.get("option", field.name)
        hint = hints[field.name]
        if not field.init or name is None or dataclasses.is_dataclass(hint) or not _simple(hint):
            continue
        if defaults is not None:
            default = getattr(defaults, field.name)
        elif field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        else:
            default = inspect.Parameter.empty if field.default is dataclasses.MISSING else field.default
        details: dict[str, Any] = {
            "help": " ".join(docs.get(field.name, "").split()),
            "metavar": field.metadata.get("metavar"),
            "rich_help_panel": getattr(config, "PANEL", None),
        }
        flag = "--" + name.replace("_", "-")
        declared = [flag]
        if get_origin(hint) is tuple:
            (item, _) = get_args(hint)
            if get_origin(item) is tuple:  # sizes
                item, details["parser"], details["metavar"] = Any, image_size_of, "WIDTHxHEIGHT"
            hint = list[item]  # type: ignore[valid-type]
            if isinstance(default, tuple):
                default = [value if isinstance(value, str) else "x".join(map(str, value)) for value in default]
        elif hint is bool:
            declared = [flag] if default is False else [f"{flag}/--no{flag[1:]}"]
        annotation = Annotated[hint, typer.Option(*declared, **details)]  # type: ignore[valid-type]
        kind = inspect.Parameter.KEYWORD_ONLY
        yield field.name, inspect.Parameter(name.replace("-", "_"), kind, default=default, annotation=annotation)


def _simple(hint: Any) -> bool:
    """Return whether a command line can hold values of this type."""
    if get_origin(hint) is tuple:
        item, *rest = get_args(hint)
        return rest == [Ellipsis] and item in (str, tuple[int, int])
    return hint in (str, int, float, bool)


def field_docs(config: type[Any]) -> dict[str, str]:
    """Read the docstrings below the fields of a dataclass and of its bases from their source, by field."""
    docs: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        if not dataclasses.is_dataclass(cls):
            continue
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(tree, ast.ClassDef)
        for statement, following in zip(tree.body, [*tree.body[1:], ast.Pass()], strict=True):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                is_doc = isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant)
                if is_doc:
                    docs[statement.target.id] = str(following.value.value)  # type: ignore[attr-defined]
    return docs
