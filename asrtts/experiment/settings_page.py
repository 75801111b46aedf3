"""Every setting as a page, docs/settings.md: what the classes of settings and the comments in them say."""

from __future__ import annotations

import ast
import inspect
import io
import json
import textwrap
import tokenize
import types
from collections.abc import Iterator, Set
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from asrtts.config import WANTED, MembersOf, Settings
from asrtts.experiment.settings import DEFAULT_TASK, TASKS
from asrtts.registry import find, names
from asrtts.text.tokenizer import KINDS

ABOUT = """# All settings

`asrtts train --settings` prints this page, which is made of the classes that read the settings. A key stands in a YAML
file (`training:`, and below it `updates: 2000`) or on the command line (`training.updates=2000`), and an unknown one is
refused. `exp/<name>/config.yaml` has every value of a run.

`data.tokens` names what `asrtts tokenize --kind` made, of the kinds {kinds}.
"""
NUMBERS = {int: WANTED["int"], float: WANTED["float"]}
PLAIN = {**NUMBERS, bool: WANTED["bool"], str: WANTED["string"], type(None): "null"}
HEAD = ["key", "wanted", "default", "what it is"]


def page() -> str:
    """Markdown."""
    parts = [ABOUT.format(kinds=", ".join(f"`{kind}`" for kind in KINDS))]
    for task in sorted(names(TASKS), key=lambda task: (task != DEFAULT_TASK, task)):
        settings = find(TASKS, task).Settings
        parts.append(f"\n## task: {task}\n")
        fields = settings.model_fields.items()
        members = {key: chosen for key, field in fields if (chosen := members_of(field))}
        parts += sections(settings, "", "keys of the top", leave=members.keys())
        for key, chosen in members.items():
            for name in names(chosen.package):
                config = find(chosen.package, name).Config
                prefix = f"{key}.{name}." if chosen.weighted else f"{key}."
                title = f"{key}.{name}" if chosen.weighted else f"{key}: {{name: {name}}}"
                parts += sections(config, prefix, title, leave={"name"})
    return "".join(parts)


def members_of(field: FieldInfo) -> MembersOf | None:
    """Which files a field's settings are those of, if they are chosen by name."""
    return next((extra for extra in field.metadata if isinstance(extra, MembersOf)), None)


def sections(kind: type[Settings], prefix: str, title: str, leave: Set[str] = frozenset()) -> Iterator[str]:
    """The table of a class, and then those of the classes in it."""
    fields = {key: field for key, field in kind.model_fields.items() if key not in leave}
    below = {key: inner(field) for key, field in fields.items()}
    about, says = " ".join((ast.get_docstring(tree(kind)) or "").split()), comments(kind)
    rows = [
        [f"`{prefix}{key}`", described(field.annotation, field.metadata), shown(field), says.get(key, "")]
        for key, field in fields.items()
        if below[key] is None or type(None) in get_args(field.annotation)  # what may be left out is a key, too
    ]
    lines = [f"| {' | '.join(row)} |" for row in (HEAD, *rows)]
    lines.insert(1, "|---" * len(HEAD) + "|")
    yield "\n".join(["", f"### {title}", "", *([about, ""] if about else []), *(lines if rows else []), ""])
    for key, one in below.items():
        if one:
            yield from sections(one, f"{prefix}{key}.", f"{prefix}{key}")


def tree(kind: type[Settings]) -> ast.ClassDef:
    return ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]


def comments(kind: type[Settings]) -> dict[str, str]:
    """What stands behind each field, or in the lines right above it; of the classes that it is built on too."""
    inherited = [comments(base) for base in kind.__bases__ if issubclass(base, Settings) and base is not Settings]
    source = textwrap.dedent(inspect.getsource(kind))
    found = {
        token.start[0]: (token.string.lstrip("# "), not token.line[: token.start[1]].strip())
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type == tokenize.COMMENT
    }
    says = {key: text for below in inherited for key, text in below.items()}
    for node in tree(kind).body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            above, line = [], node.lineno - 1
            while line in found and found[line][1]:
                above.insert(0, found[line][0])
                line -= 1
            behind = [found[n][0] for n in range(node.lineno, (node.end_lineno or node.lineno) + 1) if n in found]
            says[node.target.id] = " ".join([*above, *behind]).replace("|", "or")
    return says


def inner(field: FieldInfo) -> type[Settings] | None:
    """The class of the settings below a field."""
    kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
    return next((kind for kind in kinds if issubclass(kind, Settings)), None)


def described(kind: Any, metadata: Any = ()) -> str:
    """A type and its bounds, in a reader's words."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        return described(args[0], args[1:])
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in args)
    if origin in (Union, types.UnionType):
        return " or ".join(described(arg, metadata if arg in NUMBERS else ()) for arg in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"a list of {len(args)}: {described(args[0])}"
    if origin in (list, tuple):
        return f"a list: {described(args[0])}"
    if isinstance(kind, type) and issubclass(kind, Settings):
        return "the keys below"
    return PLAIN[kind] + (bounds(metadata) if kind in NUMBERS else "")


def bounds(metadata: Any) -> str:
    """[Ge(0), Lt(1)] -> ' from 0 below 1'"""
    words = {"gt": "above", "ge": "from", "lt": "below", "le": "up to"}
    flat = [m for item in metadata for m in (item.metadata if isinstance(item, FieldInfo) else [item])]
    said = [f"{word} {getattr(m, name)}" for name, word in words.items() for m in flat if hasattr(m, name)]
    return f" {' '.join(said)}" if said else ""


def shown(field: FieldInfo) -> str:
    """The default as YAML has it."""
    if field.is_required():
        return "has to be given"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, Settings):
        return "the defaults below"
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"
