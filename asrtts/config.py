"""Settings: typed classes filled from YAML and `key.sub=value` on the command line by one mechanism."""

from __future__ import annotations

import argparse
import math
import re
import reprlib
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_args

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator

from asrtts.registry import UserError, find, names, one_line, suggestion

MOST = 1_000_000_000  # of whatever a setting counts
Count = Annotated[int, Field(ge=1, le=MOST)]
CountOrNone = Annotated[int, Field(ge=0, le=MOST)]


class Settings(BaseModel):
    """Base of every `Config`: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _no_truth_for_a_number(cls, values: Any) -> Any:
        """Python takes true for 1, so that `workers: yes` would be one worker."""
        for key, field in cls.model_fields.items():
            if isinstance(values, dict) and isinstance(values.get(key), bool) and field.annotation in (int, float):
                raise _Mistake((key,), f"holds {_shown(values[key])}; wanted a number")
        return values


Kind = TypeVar("Kind", bound=Settings)


@dataclass(frozen=True)
class MembersOf:
    """On a field: its settings are those of files in a package, chosen by name or, with weights, several of them."""

    package: str
    weighted: bool


def chosen_by_name(package: str) -> Any:
    """The type of a setting `{name: conformer, ...}`: the file's own `Config`, found by its name."""

    def build(value: Any) -> Any:
        if isinstance(value, Settings):
            return value
        if not isinstance(value, dict):
            value = {"name": value}
        if value.get("name") is None:
            raise _Mistake(("name",), f"is missing{suggestion('', names(package))}")
        return _within(_config(package, value["name"], ("name",)), value, ())

    return Annotated[SerializeAsAny[Settings], BeforeValidator(build), MembersOf(package, weighted=False)]


def weighted_by_name(package: str) -> Any:
    """The type of `heads: {ctc: 0.3, attention: {weight: 0.7, layers: 4}}`; a bare number is the weight."""

    def build(value: Any) -> Any:
        if not isinstance(value, dict) or not value:
            wanted = f"wanted at least one `name: weight`{suggestion(str(value), names(package))}"
            raise _Mistake((), f"holds {_shown(value)}; {wanted}")
        built = {}
        for name, settings in value.items():
            config = _config(package, name, ())
            if isinstance(settings, (int, float)) and not isinstance(settings, bool):
                settings = {"weight": settings}
            if not isinstance(settings, (dict, Settings, type(None))):
                raise _Mistake((name,), f"holds {_shown(settings)}; wanted its weight or its settings")
            built[name] = settings if isinstance(settings, Settings) else _within(config, settings or {}, (name,))
            if not 0 < built[name].weight < math.inf:
                wanted = "wanted a number above 0; a head that is not to be trained is left out"
                raise _Mistake((name, "weight"), f"holds {built[name].weight:g}; {wanted}")
        return built

    return Annotated[dict[str, SerializeAsAny[Settings]], BeforeValidator(build), MembersOf(package, weighted=True)]


def load(path: Path, kind: type[Kind], settings: Sequence[str] = ()) -> Kind:
    """Read YAML into `kind`, with the `key.sub=value` of `settings` over it.

    Raises:
        UserError: the file is missing or is no YAML mapping; a key is unknown or a value has the wrong type
            (the dotted key, what was found, what was wanted).
    """
    values = read_yaml(path)
    put_overrides(values, settings)
    return build(kind, values, str(path))


def put_overrides(values: dict[str, Any], settings: Sequence[str]) -> None:
    """Put `key.sub=value` strings into a mapping. Raises UserError for one that is no setting."""
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not all(key.split(".")):
            raise UserError(f"'{setting}' is no setting: write key=value or key.sub=value")
        _put(values, key.split("."), _parse(text, setting), setting)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, merged over the one file that its `base:` names (one level, relative)."""
    path = Path(path)
    values = _read_mapping(path)
    base = values.pop("base", None)
    if base is None:
        return values
    try:
        below = _read_mapping(path.parent / str(base))
    except UserError as error:
        raise UserError(f"{path}: base: {error}") from None
    if "base" in below:
        raise UserError(f"{path.parent / base}: has a base: of its own; only one level is read")
    return _merge(below, values)


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        values = _yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: {_why_missing(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise UserError(f"{path}:{line}: not valid YAML ({error.problem})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: wanted `key: value` lines, found {_shown(values)}")
    return values


def _why_missing(path: Path) -> str:
    folder = path.parent
    if folder.is_dir():
        near = suggestion(path.stem, [p.stem for p in folder.glob("*.yaml")])  # with .yaml any two would be alike
        return f"no such settings file{near}"
    others = [p.name for p in folder.parent.glob("*/") if p.is_dir()]
    return f"no such settings file, since there is no folder {folder.name}{suggestion(folder.name, others)}"


def build(kind: type[Kind], values: dict[str, Any], where: str) -> Kind:
    """Validate a mapping into `kind`; `where` names its origin in the error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, kind)}") from None


def dump(settings: Settings, path: Path) -> None:
    """Write every value, defaults included, so that the file alone gives the run again."""
    Path(path).write_text(
        yaml.dump(settings.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True),
        encoding="utf-8",
    )


class ArgumentParser(argparse.ArgumentParser):
    """argparse whose mistakes are UserErrors with the nearest option."""

    def __init__(self, verb: str, doc: str | None, **kwargs: Any) -> None:
        super().__init__(
            prog=f"asrtts {verb}",
            description=doc,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
            **kwargs,
        )

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        known, extra = self.parse_known_intermixed_args(args, namespace)  # key=value may stand behind an --option
        if extra:
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            first = next((word for word in extra if word.startswith("-")), extra[0])
            hint = suggestion(first.split("=")[0], options) if first.startswith("-") else ""
            self.error(f"unknown argument '{first}'{hint}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}. See {self.prog} --help")


def whole(least: int, most: int) -> Callable[[str], int]:
    """The type of a command line option that is a whole number within bounds."""

    def read(text: str) -> int:
        with suppress(ValueError):
            if least <= (number := int(text)) <= most:
                return number
        raise argparse.ArgumentTypeError(f"found {_shown(text)}, wanted a whole number from {least} to {most}")

    return read


class _Mistake(ValueError):
    """What is wrong with the value under a key; pydantic carries it up and adds the keys above."""

    def __init__(self, path: tuple[Any, ...], text: str) -> None:
        super().__init__(text)
        self.path = path


class _Inner(ValueError):
    """The mistakes of a member's own settings, which stand under `path`."""

    def __init__(self, path: tuple[Any, ...], error: ValidationError, kind: type[Settings]) -> None:
        super().__init__(str(error))
        self.path, self.error, self.kind = path, error, kind


def _config(package: str, name: Any, path: tuple[Any, ...]) -> type[Settings]:
    try:
        return find(package, name).Config
    except UserError as error:
        raise _Mistake(path, f": {error}") from None


def _within(config: type[Settings], value: dict[str, Any], path: tuple[Any, ...]) -> Settings:
    try:
        return config.model_validate(value)
    except ValidationError as error:
        raise _Inner(path, error, config) from None


# pydantic's names of type errors, in a reader's words
WANTED = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list, e.g. [1, 2]",
    "tuple": "a list, e.g. [1, 2]",
    "dict": "`key: value` lines",
    "model": "`key: value` lines",
}


def _explain(error: ValidationError, kind: type[Settings], above: tuple[Any, ...] = ()) -> str:
    """The first mistake of a pydantic error as one clause; the others are counted."""
    errors = error.errors()
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])  # a misspelled key is missing too
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    inner = first.get("ctx", {}).get("error")
    path = (*above, *first["loc"])
    if isinstance(inner, _Inner):
        return _explain(inner.error, inner.kind, (*path, *inner.path)) + more
    return _clause(first, inner, path, kind) + more


def _clause(first: Any, inner: Any, path: tuple[Any, ...], kind: type[Settings]) -> str:
    path += inner.path if isinstance(inner, _Mistake) else ()
    key, value, message = ".".join(str(part) for part in path), first["input"], first["msg"]
    if isinstance(inner, _Mistake):
        return f"{key} {inner}".replace(" : ", ": ", 1).strip()
    if isinstance(inner, ValueError):
        return f"{key}: {inner}" if key else str(inner)
    if first["type"] == "extra_forbidden":
        return f"unknown key '{key}'{suggestion(str(path[-1]), _fields(kind, first['loc'][:-1]))}"
    if first["type"] == "missing":
        return f"key '{key}' is missing"
    if first["type"] == "literal_error" and isinstance(value, str):
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        return f"{key}: there is no '{value}'{suggestion(value, choices)}"
    wanted = WANTED.get(first["type"].split("_")[0])
    if wanted and first["type"].endswith(("_type", "_parsing", "_from_float")):
        return f"{key} holds {_shown(value)}; wanted {wanted}"
    return f"{key} holds {_shown(value)}; it {message[6:] if message.startswith('Input ') else 'is wrong: ' + message}"


_REPR = reprlib.Repr()  # which ends in a value that is deeply nested, or that a few anchors of YAML make huge
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200


def _shown(value: Any) -> str:
    """A value as YAML has it, on one line of bearable length."""
    text = {None: "nothing", True: "true", False: "false"}.get(value) if isinstance(value, (bool, type(None))) else None
    text = text or _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _fields(kind: Any, path: Sequence[Any]) -> list[str]:
    """The keys that a settings class has under a path of keys."""
    for part in path:
        annotation = kind.model_fields[part].annotation
        kinds = [k for k in (annotation, *get_args(annotation)) if isinstance(k, type) and issubclass(k, Settings)]
        if not kinds:
            return []
        kind = kinds[0]
    return list(kind.model_fields)


def _yaml(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except RecursionError:
        raise yaml.YAMLError("nested too deeply") from None


def _parse(text: str, override: str) -> Any:
    try:
        return _yaml(text)
    except yaml.YAMLError:
        raise UserError(f"'{override}': the value is not valid YAML") from None


class _Loader(yaml.SafeLoader):
    """YAML in which a key stands once, and 1e-3 is a number (YAML 1.1 wants 1.0e-3 and reads text else)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            keys.append(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The exceptions of Python's own constructors, such as that of a date in a 13th month, are YAML's here."""
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            found = f"{_shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None


class _Dumper(yaml.SafeDumper):
    """Quotes the text that _Loader would read as a number."""


_NUMBER = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)[eE][-+]?[0-9]+$")
for _side in (_Loader, _Dumper):
    _side.add_implicit_resolver("tag:yaml.org,2002:float", _NUMBER, list("-+.0123456789"))


def _put(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        below = values[key] = {} if values.get(key) is None else values[key]
        if isinstance(below, (int, float)) and not isinstance(below, bool):
            below = values[key] = {"weight": below}  # heads: {ctc: 0.3} and then heads.ctc.dropout=0.1
        if isinstance(below, str):
            below = values[key] = {"name": below}
        if not isinstance(below, dict):
            raise UserError(f"'{override}': {key} holds {_shown(below)}, which has no key {keys[-1]}")
        values = below
    values[keys[-1]] = value


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def warn(message: str) -> None:
    """One line on standard error that stops nothing."""
    print(f"warning: {one_line(message)}", file=sys.stderr)
