"""A node's parameters as one table: declared, checked, documented and written to YAML from the same lines.

A node writes a ``ParameterTable`` of ``Parameter`` lines and calls ``table.declare(node, ...)``. Everything else
(the reference page, the YAML file, the descriptors that rqt shows) is derived from the table.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import rclpy.node
import rclpy.parameter
from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor, SetParametersResult

Value = bool | int | float | str | tuple[str, ...]
NO_NAMES = ("",)
"""An empty list of strings: ROS cannot tell the type of a list without elements."""

_ROS_TYPES: dict[type, Any] = {
    bool: rclpy.parameter.Parameter.Type.BOOL,
    int: rclpy.parameter.Parameter.Type.INTEGER,
    float: rclpy.parameter.Parameter.Type.DOUBLE,
    str: rclpy.parameter.Parameter.Type.STRING,
    tuple: rclpy.parameter.Parameter.Type.STRING_ARRAY,
}


@dataclass(frozen=True)
class Parameter:
    """One line of the table.

    Its type is that of ``default``: bool, int, float, str, or a tuple of strings (NO_NAMES instead of an empty one).

    ``minimum`` and ``maximum`` (both or none) are inclusive, in ``unit``. ``choices`` are the values a string may
    take. With both, it is a number or one of the choices: a whole number where the default is a string. ``run_time``
    says whether it may be changed while the node runs (otherwise it is declared read-only). ``elsewhere``: values that
    belong to another parameter -> what to do. ``check`` returns why an allowed value cannot be used here, or None.
    """

    name: str
    default: Value
    description: str
    unit: str = ""
    minimum: float | None = None
    maximum: float | None = None
    choices: tuple[str, ...] = ()
    run_time: bool = True
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    check: Callable[[Any], str | None] | None = None

    def __post_init__(self) -> None:
        if type(self.default) not in _ROS_TYPES:
            raise TypeError(f"parameter {self.name}: default {self.default!r} must be bool, int, float, str or tuple")
        if (self.minimum is None) != (self.maximum is None):
            raise ValueError(f"parameter {self.name}: give minimum and maximum, or neither")
        if (problem := self.problem(self.default)) is not None:
            raise ValueError(f"its own default is refused: {problem}")

    @property
    def type_name(self) -> str:
        """``bool``, ``int``, ``double``, ``string`` or ``string array``, as the ROS tools call it."""
        names = {bool: "bool", int: "int", float: "double", str: "string", tuple: "string array"}
        return " or ".join(names[kind] for kind in (type(self.default), self._other_type) if kind is not None)

    @property
    def _other_type(self) -> type | None:
        """The second type of a parameter that is a number or a word; None for others."""
        if self.minimum is None or not (self.choices or isinstance(self.default, str)):
            return None
        return int if isinstance(self.default, str) else str

    @property
    def allowed(self) -> str:
        """Range or choices in words, empty where any value of the type will do."""
        allowed = [f"`{choice}`" for choice in self.choices]
        if self.minimum is not None:
            allowed.append(f"{_number(self.minimum, self.default)} to {_number(self.maximum, self.default)}")
        return ", ".join(allowed)

    def problem(self, value: object) -> str | None:
        """Return why ``value`` is refused and what is allowed, or None."""
        if not self._is_of_type(value):
            return (
                f"parameter {self.name} = {value!r} is a {type(value).__name__}: give a {self.type_name}, "
                f"for example {_yaml(self.default)}"
            )
        if self.choices and isinstance(value, str) and value not in self.choices:
            choices = self.allowed.replace("`", "")
            if value in self.elsewhere:
                return f"parameter {self.name} = {value!r} {self.elsewhere[value]}, or choose one of {choices}"
            nearest = difflib.get_close_matches(value, self.choices, n=1)
            advice = f"; did you mean {nearest[0]}?" if nearest else ""
            return f"parameter {self.name} = {value!r} is unknown: choose one of {choices}{advice}"
        if self.minimum is not None and self.maximum is not None and not isinstance(value, str):
            assert isinstance(value, (int, float))
            if not self.minimum <= value <= self.maximum:
                unit = f" {self.unit}" if self.unit else ""
                allowed = self.allowed.replace("`", "")
                return f"parameter {self.name} = {value}{unit} is out of range: choose {allowed}{unit}"
        if self.check is not None and (reason := self.check(value)) is not None:
            return f"parameter {self.name} = {value!r}: {reason}"
        return None

    def _is_of_type(self, value: object) -> bool:
        if isinstance(value, tuple) and isinstance(self.default, tuple):
            return bool(value) and all(type(name) is str for name in value)
        return type(value) in (type(self.default), self._other_type)

    def descriptor(self) -> ParameterDescriptor:
        """Return the descriptor that ``ros2 param describe`` and rqt show."""
        unit = f" [{self.unit}]" if self.unit else ""
        text = ParameterDescriptor(
            name=self.name,
            type=_ROS_TYPES[type(self.default)].value,
            description=f"{self.description}{unit}",
            read_only=not self.run_time,
            dynamic_typing=self._other_type is not None,
        )
        if self.choices:
            text.additional_constraints = "one of: " + self.allowed.replace("`", "")
        if self.minimum is not None and self.maximum is not None and self._other_type is None:
            if isinstance(self.default, int):
                text.integer_range = [IntegerRange(from_value=int(self.minimum), to_value=int(self.maximum))]
            else:
                limits = FloatingPointRange(from_value=float(self.minimum), to_value=float(self.maximum))
                text.floating_point_range = [limits]
        return text


AtStart = partial(Parameter, run_time=False)
"""A line whose value is read at the start and cannot be changed later."""


@dataclass(frozen=True)
class Alias:
    """Another package's name of the parameter ``of``, accepted instead of it.

    ``values``: what its values are here; those that are not listed are the same, None is not taken. ``note``: what else
    the reader of the reference page should know.
    """

    name: str
    of: str
    values: Mapping[Any, Any] = field(default_factory=dict)
    note: str = ""

    def translated(self, value: Any) -> Any:
        """Return the value of the parameter for a value of the alias; None where it means nothing here."""
        return self.values.get(value, value) if isinstance(value, (bool, int, float, str)) else value


class ParameterTable:
    """All parameters of a node: its name, a summary and the lines for the reference page, former name -> name now.

    ``aliases``: names of another package that are accepted for them, at the start and (but in Humble) at run time.
    ``ignored``: names of that package that mean nothing here -> why.
    """

    def __init__(
        self,
        node: str,
        summary: str,
        parameters: tuple[Parameter, ...],
        renamed: Mapping[str, str] | None = None,
        aliases: tuple[Alias, ...] = (),
        ignored: Mapping[str, str] | None = None,
    ) -> None:
        self.node = node
        self.summary = summary
        self.renamed = dict(renamed or {})
        self.parameters = {parameter.name: parameter for parameter in parameters}
        self.aliases = {alias.name: alias for alias in aliases}
        self.ignored = dict(ignored or {})
        if len(self.parameters.keys() | self.aliases) != len(parameters) + len(aliases):
            raise ValueError(f"the parameter table of {node} has a name twice")
        if lost := [alias.name for alias in aliases if alias.of not in self.parameters]:
            raise ValueError(f"the aliases {', '.join(lost)} of {node} stand for no parameter")

    def defaults(self) -> dict[str, Value]:
        """Return default value by name."""
        return {name: parameter.default for name, parameter in self.parameters.items()}

    def problems(self, values: Mapping[str, object]) -> list[str]:
        """Return what is wrong with these values; names that are not in the table are ignored."""
        known = ((self.parameters[name], value) for name, value in values.items() if name in self.parameters)
        return [problem for parameter, value in known if (problem := parameter.problem(value)) is not None]

    def unknown(self, name: str) -> str:
        """Return what to do about a parameter that is not in the table."""
        if name in self.renamed:
            return f"parameter {name} is now called {self.renamed[name]}; its value is not used"
        if name in self.ignored:
            return f"parameter {name} is not used: {self.ignored[name]}"
        nearest = difflib.get_close_matches(name, [*self.parameters, *self.aliases], n=1)
        advice = f"did you mean {nearest[0]}?" if nearest else "docs/parameters.md lists the known ones"
        return f"parameter {name} is unknown to {self.node} and not used: {advice}"

    def resolve(self, given: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
        """Return the values of parameters for those aliases that are among ``given``, and what to say about it.

        Where a parameter is given by its own name, too, or by an earlier alias, that one holds.
        """
        values: dict[str, Any] = {}
        said = []
        for name, value in given.items():
            if (alias := self.aliases.get(name)) is None:
                continue
            if alias.of in given or alias.of in values:
                other = given.get(alias.of, values.get(alias.of))
                said.append(
                    f"parameter {name} = {value} is not used: {alias.of} = {other} is given, too; leave one out"
                )
            elif (translated := alias.translated(value)) is None:
                said.append(f"parameter {name} = {value} is not used, {alias.of} keeps its value: {alias.note}")
            else:
                values[alias.of] = translated
                said.append(f"parameter {name} = {value} is taken as {alias.of} = {translated}")
        return values, said

    def declare(
        self,
        node: rclpy.node.Node,
        *,
        check: Callable[[dict[str, Any]], str | None] | None = None,
        apply: Callable[[set[str]], None] | None = None,
        reread: bool = False,
    ) -> DeclaredParameters:
        """Declare the table on ``node``, and answer changes in three phases.

        1. before: whole numbers given for a double become doubles (``ros2 param set ... max_depth 30``);
        2. validate: type, range and choice of each value, then ``check(all values as they would become)``,
           which returns a reason to refuse or None; nothing is changed here;
        3. apply: ``apply(names that were set)`` after the values are stored, also where they are as before.

        ``reread``: whether the node can start over, so that a refused start value of a read-only parameter may be
        replaced.
        """
        return DeclaredParameters(self, node, check, apply, reread)

    def markdown(self) -> str:
        """Return the section of the reference page."""
        lines = [f"## `{self.node}`", "", self.summary, ""]
        lines += ["| name | type | default | unit | allowed | at run time | description |", "|-|-|-|-|-|-|-|"]
        for parameter in self.parameters.values():
            lines.append(
                f"| `{parameter.name}` | {parameter.type_name} | `{_yaml(parameter.default)}` | "
                f"{parameter.unit or '-'} | {parameter.allowed or '-'} | "
                f"{'yes' if parameter.run_time else 'no'} | {parameter.description} |"
            )
        if self.aliases or self.ignored:
            lines += ["", "Aliases:", "", "| name | is taken as | |", "|-|-|-|"]
            for alias in self.aliases.values():
                values = ", ".join(
                    f"`{_yaml(key)}` is `{_yaml(to)}`" for key, to in alias.values.items() if to is not None
                )
                notes = "; ".join(filter(None, (values, alias.note)))
                lines.append(f"| `{alias.name}` | `{alias.of}` | {notes or '-'} |")
            lines += [f"| `{name}` | - | not used: {reason} |" for name, reason in self.ignored.items()]
        return "\n".join([*lines, ""])

    def yaml(self) -> str:
        """Return a parameter file with every default, for any node: `ros2 param load` knows no other wildcard."""
        lines = ["/**:", "  ros__parameters:"]
        for parameter in self.parameters.values():
            notes = [note for note in (parameter.unit, parameter.allowed.replace("`", "")) if note]
            suffix = f" ({'; '.join(notes)})" if notes else ""
            lines.append(f"    # {parameter.description}{suffix}")
            lines.append(f"    {parameter.name}: {_yaml(parameter.default)}")
        return "\n".join([*lines, ""])


class DeclaredParameters:
    """The parameters of a running node. ``parameters["name"]`` is the value; ``problems`` names what was refused.

    A refused start value (wrong type, out of range) does not take the node down: the parameter keeps its
    default, and ``problems`` holds the reason until an allowed value is set.
    """

    def __init__(
        self,
        table: ParameterTable,
        node: rclpy.node.Node,
        check: Callable[[dict[str, Any]], str | None] | None,
        apply: Callable[[set[str]], None] | None,
        reread: bool,
    ) -> None:
        self.table = table
        self._logger = node.get_logger()
        self._check = check
        self._apply = apply
        self._reread = reread
        self._values: dict[str, Any] = {}
        self._problems: dict[str, str] = {}
        # rclpy has no public way to read the overrides of parameters that are not declared.
        given = {name: override.value for name, override in getattr(node, "_parameter_overrides", {}).items()}
        aliased, said = table.resolve(given)
        for text in said:
            self._logger.warning(text)
        for parameter in table.parameters.values():
            self._values[parameter.name] = self._declare(node, parameter, aliased.get(parameter.name))
        for name in given:
            if not (node.has_parameter(name) or name in table.aliases or name.startswith("qos_overrides.")):
                self._logger.warning(table.unknown(name))
        if hasattr(node, "add_post_set_parameters_callback"):
            node.add_pre_set_parameters_callback(self._before)
            node.add_on_set_parameters_callback(self._validate)
            node.add_post_set_parameters_callback(self._after)
        else:  # Humble has one phase only
            node.add_on_set_parameters_callback(self._validate_and_apply)

    def __getitem__(self, name: str) -> Any:
        return self._values[name]

    @property
    def problems(self) -> list[str]:
        """Start values that were refused and not replaced since."""
        return list(self._problems.values())

    def values(self) -> dict[str, Any]:
        """Return a copy of all values by name."""
        return dict(self._values)

    def _declare(self, node: rclpy.node.Node, parameter: Parameter, aliased: Any) -> Any:
        # Declared without constraints first: that is how a refused start value can be read and named.
        node.declare_parameter(parameter.name, parameter.default, ParameterDescriptor(dynamic_typing=True))
        given = node.get_parameter(parameter.name).value if aliased is None else aliased
        value = _as_declared(parameter, given)
        node.undeclare_parameter(parameter.name)
        descriptor = parameter.descriptor()
        problem = parameter.problem(value)
        if problem is not None:
            self._problems[parameter.name] = problem
            if self._reread:
                descriptor.read_only = False
            value = parameter.default
        node.declare_parameter(parameter.name, value, descriptor, ignore_override=True)
        return value

    def _before(self, changes: list[rclpy.parameter.Parameter]) -> list[rclpy.parameter.Parameter]:
        result = []
        for change in changes:
            if (alias := self.table.aliases.get(change.name)) is not None:
                if (value := alias.translated(change.value)) is None:
                    value = self._values[alias.of]
                change = rclpy.parameter.Parameter(alias.of, value=value)
            parameter = self.table.parameters.get(change.name)
            if parameter is not None:
                value = _as_declared(parameter, change.value)
                if value is not change.value:
                    change = rclpy.parameter.Parameter(change.name, value=value)
                # rclpy refuses some of them before the next phase, with fewer words.
                if (problem := parameter.problem(value)) is not None:
                    self._logger.warning(f"refused: {problem}")
            result.append(change)
        return result

    def _validate(self, changes: list[rclpy.parameter.Parameter]) -> SetParametersResult:
        own = {change.name: change.value for change in changes if change.name in self.table.parameters}
        problems = self.table.problems(own)
        if own and not problems and self._check is not None:
            problem = self._check({**self._values, **own})
            problems = [problem] if problem else []
        return SetParametersResult(successful=not problems, reason="; ".join(problems))

    def _after(self, changes: list[rclpy.parameter.Parameter]) -> None:
        own = {change.name: change.value for change in changes if change.name in self.table.parameters}
        self._values.update(own)
        for name in own:
            self._problems.pop(name, None)
        if own and self._apply is not None:
            self._apply(set(own))

    def _validate_and_apply(self, changes: list[rclpy.parameter.Parameter]) -> SetParametersResult:
        result = self._validate(changes)
        if result.successful:
            self._after(changes)
        return result


def _as_declared(parameter: Parameter, value: object) -> Any:
    """Convert a whole number given for a double to float, and a list of strings to a tuple; keep other values.

    ROS reads ``on`` and ``off`` without quotes as bool: where they are choices, they are meant as words.
    """
    if isinstance(value, bool) and isinstance(parameter.default, str):
        word = "on" if value else "off"
        return word if word in parameter.choices else value
    if isinstance(parameter.default, float) and type(value) is int:
        return float(value)
    if isinstance(parameter.default, tuple):
        if value is None or value == []:  # `[]` in a parameter file, which has no type
            return NO_NAMES
        return tuple(value) if isinstance(value, list) else value
    return value


def _number(value: float | None, like: Value) -> str:
    return f"{value:g}" if isinstance(like, float) else str(int(value or 0))


def _yaml(value: Value) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'"{value}"'
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    return repr(value)
