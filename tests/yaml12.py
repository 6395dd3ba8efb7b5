"""A rule file as an editor sees it: YAML 1.2's core schema, where `NO` and `off` are texts and `05` is a number."""

from __future__ import annotations

import re
from typing import TypeAlias

from fraudengine.rules.yamldoc import Mapping, Node, Scalar, read_document

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")


def read_as_editor(path: str, text: str) -> Json:
    """The JSON that yaml-language-server would validate; None when the YAML itself is wrong."""
    node, mistakes = read_document(path, text)
    if node is None or any(item.severity == "error" for item in mistakes):
        return None
    return _json(node)


def _json(node: Node) -> Json:
    if isinstance(node, Scalar):
        return node.text if node.quoted else _plain(node.text)
    if isinstance(node, Mapping):
        return {key.text: _json(value) for key, value in node.items}
    return [_json(item) for item in node.items]


def _plain(text: str) -> Json:
    if text in ("", "~", "null", "Null", "NULL"):
        return None
    if text in ("true", "True", "TRUE", "false", "False", "FALSE"):
        return text.lower() == "true"
    if _INTEGER.fullmatch(text):
        return int(text)
    if text.startswith("0o") and text[2:].isdigit():
        return int(text, 8)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text
