"""YAML as a person means it, within bounds. PyYAML reads YAML 1.1; the differences are said below."""

from __future__ import annotations

import re
import reprlib
from typing import Any

import yaml

# PyYAML reads YAML 1.1, in which 010 is 8, 1:30 is 90, no is false and 1e-3 is text. Here null, true, false and decimal
# numbers are as in YAML 1.2, all other words are text, and the type of the setting says what a text means: of a
# number, 010 is 10 and 1:30 is refused; of a switch, no is false; of a name, each of them is that name.

DEEPEST = 20  # lists and keys within each other
MOST_BYTES = 100_000  # of a file of settings or a value: PyYAML takes about a second for so many
MOST_VALUES = 10_000  # with the aliases written out
MOST_DIGITS = 40

_TAG = "tag:yaml.org,2002:"
_RESOLVED = (
    ("null", re.compile(r"(?:~|null|Null|NULL|)$"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")),
    ("int", re.compile(r"[-+]?(?:0|[1-9][0-9]*|0x[0-9a-fA-F]+|0o[0-7]+)$"), list("-+0123456789")),
    (
        "float",
        re.compile(
            r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|[-+]?\.(?:inf|Inf|INF)$|\.(?:nan|NaN|NAN)$"
        ),
        list("-+.0123456789"),
    ),
    ("merge", re.compile(r"<<$"), ["<"]),
)
_TAGS = {_TAG + name for name in ("null", "bool", "int", "float", "str", "seq", "map")}


class Loader(yaml.SafeLoader):
    """What a person means: see above; a key stands once, is text, and nothing is larger than settings can be."""

    yaml_implicit_resolvers: dict[str, Any] = {}
    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.depth > DEEPEST:
            raise yaml.composer.ComposerError(None, None, "nested too deeply", self.peek_event().start_mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> yaml.Node | None:
        root = super().get_single_node()
        if root and _size(root, {}) > MOST_VALUES:
            raise yaml.constructor.ConstructorError(None, None, f"more than {MOST_VALUES} values", root.start_mark)
        return root

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                key.tag = _TAG + "str"

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys: list[Any] = []
        for key, _ in node.value:
            if key.value in keys:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' stands twice", key.start_mark)
            keys.append(key.value)
        return super().construct_mapping(node, deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The exceptions of Python's own constructors, such as that of !!int x, are YAML's here."""
        if node.tag not in _TAGS:
            found = f"could not determine a constructor for the tag {node.tag!r:.60}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark)
        try:
            if isinstance(node, yaml.ScalarNode):
                node.value.encode()  # "\\ud800" is no letter and could not be written again
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError):
            found = f"{shown(node.value)} is no {node.tag.rpartition(':')[2]}"
            raise yaml.constructor.ConstructorError(None, None, found, node.start_mark) from None

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        text = self.construct_scalar(node)
        if len(text) > MOST_DIGITS:
            raise yaml.constructor.ConstructorError(None, None, f"a number of {len(text)} digits", node.start_mark)
        base = {"0x": 16, "0o": 8}.get(text.lstrip("-+")[:2], 10)
        return int(text, base)


Loader.add_constructor(_TAG + "int", Loader.construct_yaml_int)


class Dumper(yaml.SafeDumper):
    """Quotes every text that Loader or another reader of YAML would take for something else."""


for _name, _pattern, _first in _RESOLVED:
    for _side in (Loader, Dumper):
        _side.add_implicit_resolver(_TAG + _name, _pattern, _first)


def _size(node: yaml.Node, sizes: dict[int, int]) -> int:
    """The number of values in a node, with aliases written out; `sizes` holds that of the nodes seen before."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in sizes:
        sizes[id(node)] = MOST_VALUES + 1  # until it is known: so large is one that holds itself
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        sizes[id(node)] = 1 + sum(_size(part, sizes) for part in parts)
    return sizes[id(node)]


def read(text: str) -> Any:
    """The values in a text. Raises yaml.YAMLError for one that is no YAML, or beyond the bounds."""
    if len(text) > MOST_BYTES:
        raise yaml.YAMLError(f"more than {MOST_BYTES} bytes")
    return yaml.load(text, Loader)


_REPR = reprlib.Repr()  # which ends in a value that is deeply nested, or that a few anchors of YAML make huge
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200


def shown(value: Any) -> str:
    """A value as YAML has it, on one line of bearable length."""
    text = {None: "nothing", True: "true", False: "false"}.get(value) if isinstance(value, (bool, type(None))) else None
    text = text or _REPR.repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
