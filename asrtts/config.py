"""Settings: typed classes filled from YAML and `key.sub=value` on the command line by one mechanism."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, SerializeAsAny, ValidationError

from asrtts.registry import UserError, find, suggestion


class Settings(BaseModel):
    """Base of every `Config`: unknown keys are refused, values are not changed after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


Kind = TypeVar("Kind", bound=Settings)


def chosen_by_name(package: str) -> Any:
    """The type of a setting `{name: conformer, ...}`: the file's own `Config`, found by its name."""

    def build(value: Any) -> Any:
        if isinstance(value, str):
            value = {"name": value}
        if not isinstance(value, dict) or "name" not in value:
            return value  # already built, or pydantic says what is wrong
        return _within(find(package, value["name"]).Config, value)

    return Annotated[SerializeAsAny[Settings], BeforeValidator(build)]


def weighted_by_name(package: str) -> Any:
    """The type of `heads: {ctc: 0.3, attention: {weight: 0.7, layers: 4}}`; a bare number is the weight."""

    def build(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        built = {}
        for name, settings in value.items():
            config = find(package, name).Config
            if isinstance(settings, (int, float)) and not isinstance(settings, bool):
                settings = {"weight": settings}
            built[name] = _within(config, settings or {}, name) if not isinstance(settings, Settings) else settings
        return built

    return Annotated[dict[str, SerializeAsAny[Settings]], BeforeValidator(build)]


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
        if not equals or not key:
            raise UserError(f"'{setting}' is no setting: write key=value or key.sub=value")
        _put(values, key.split("."), _parse(text, setting), setting)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file, merged over the one file that its `base:` names (one level, relative)."""
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        near = suggestion(path.name, [p.name for p in path.parent.glob("*.yaml")]) if path.parent.is_dir() else ""
        raise UserError(f"{path}: no such settings file{near}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {' '.join(str(error).split())}") from None
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{path}: wanted `key: value` lines, found a {type(values).__name__}")
    base = values.pop("base", None)
    if base is None:
        return values
    below = yaml.safe_load((path.parent / base).read_text()) if (path.parent / base).is_file() else None
    if not isinstance(below, dict):
        raise UserError(f"{path}: base: {base} is not a settings file in {path.parent}")
    if "base" in below:
        raise UserError(f"{path.parent / base}: has a base: of its own; only one level is read")
    return _merge(below, values)


def build(kind: type[Kind], values: dict[str, Any], where: str) -> Kind:
    """Validate a mapping into `kind`; `where` names its origin in the error."""
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, kind, values)}") from None


def dump(settings: Settings, path: Path) -> None:
    """Write every value, defaults included, so that the file alone gives the run again."""
    Path(path).write_text(
        yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True), encoding="utf-8"
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
        known, extra = self.parse_known_args(args, namespace)
        if extra:
            options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
            hint = suggestion(extra[0].split("=")[0], options) if extra[0].startswith("-") else ""
            self.error(f"unknown argument '{extra[0]}'{hint}")
        return known

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}. See {self.prog} --help")


def _within(config: type[Settings], value: dict[str, Any], prefix: str = "") -> Settings:
    """Validate a member's settings so that an error keeps its dotted key."""
    try:
        return config.model_validate(value)
    except ValidationError as error:
        at = f"{prefix}." if prefix else ""
        raise ValueError(at + _explain(error, config, value)) from None


def _explain(error: ValidationError, kind: type[Settings], values: Any) -> str:
    """The first mistake of a pydantic error as one clause; the others are counted."""
    first, more = error.errors()[0], error.error_count() - 1
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        text = f"unknown key '{key}'{suggestion(str(first['loc'][-1]), _fields(kind, first['loc'][:-1]))}"
    elif first["type"] == "missing":
        text = f"key '{key}' is missing"
    elif first["type"] == "literal_error" and isinstance(first["input"], str):
        choices = re.findall(r"'([^']*)'", first["ctx"]["expected"])
        text = f"{key}: there is no '{first['input']}'{suggestion(first['input'], choices)}"
    else:
        message = first["msg"].removeprefix("Value error, ")
        found = f", found {first['input']!r:.80}" if first["type"] != "value_error" else ""
        text = f"{key}: {message}{found}" if key else message
    return text + (f" (and {more} more)" if more else "")


def _fields(kind: Any, path: Sequence[Any]) -> list[str]:
    for part in path:
        field = getattr(kind, "model_fields", {}).get(part)
        kind = field.annotation if field else None
    return list(getattr(kind, "model_fields", {}))


def _parse(text: str, override: str) -> Any:
    try:
        value = yaml.safe_load(text)
        return float(value) if isinstance(value, str) and _is_number(value) else value
    except yaml.YAMLError:
        raise UserError(f"'{override}': the value is not valid YAML") from None


def _is_number(text: str) -> bool:
    """YAML 1.1 reads 1e-3 as a string; a person means a number."""
    try:
        float(text)
    except ValueError:
        return False
    return text.lower().lstrip("+-") not in ("nan", "inf", "infinity")


def _put(values: dict[str, Any], keys: list[str], value: Any, override: str) -> None:
    for key in keys[:-1]:
        below = values.setdefault(key, {})
        if isinstance(below, (int, float)) and not isinstance(below, bool):
            below = values[key] = {"weight": below}  # heads: {ctc: 0.3} and then heads.ctc.dropout=0.1
        if isinstance(below, str):
            below = values[key] = {"name": below}
        if not isinstance(below, dict):
            raise UserError(f"'{override}': {key} holds {below!r}, which has no key {keys[-1]}")
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
    print(f"warning: {message}", file=sys.stderr)
