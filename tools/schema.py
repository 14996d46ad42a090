"""The contract's format for people and other programs, from its table: a table of Markdown, a JSON schema.

python tools/schema.py docs   # writes docs/contract.schema.json, prints the table of contract.md
"""

import json
import sys
from pathlib import Path
from typing import Any

from robokit.controller import FIELDS, KIND, LARGEST, SCHEMA, Field, rule_of

FILE = "contract.schema.json"
Node = dict[str, Any]


def markdown() -> str:
    """The table of FIELDS, a row for each."""
    row = "| `{}` | {} | {} | {} | {} |"
    rows = [row.format(f.key, rule_of(f), "yes" * f.required, f.since, f.says) for f in FIELDS]
    return "\n".join(["| key | what | required | since | meaning |", "|---|---|---|---|---|", *rows]) + "\n"


def json_schema() -> Node:
    """A JSON schema (2020-12) of a contract of the newest schema; it lacks the rules about several keys."""
    top: Node = {"type": "object"}
    for field in FIELDS:
        *places, last = field.key.replace("[]", ".[]").replace("{}", ".{}").split(".")
        node = top
        for place in places:
            node = _inside(node, place)
        _put(node, last, _rule(field) | {"description": field.says})
        if field.required and last not in ("[]", "{}"):
            node.setdefault("required", []).append(last)
    for key, only in (("schema", SCHEMA), ("kind", KIND)):
        top["properties"][key] = {"const": only, "description": top["properties"][key]["description"]}
    about = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": f"robokit.contract {SCHEMA}"}
    return about | top


def text() -> str:
    """The JSON schema as the file's text."""
    return json.dumps(json_schema(), indent=1) + "\n"


def _inside(node: Node, place: str) -> Node:
    if place == "[]":
        return node.setdefault("items", {"type": "object"})
    return node["additionalProperties"] if place == "{}" else node["properties"][place]


def _put(node: Node, place: str, rule: Node) -> None:
    if place == "{}":
        node["additionalProperties"] = rule
    else:
        node.setdefault("properties", {})[place] = rule


def _rule(field: Field) -> Node:
    kinds = [_of_kind(kind, field) for kind in field.type.split(" | ")]
    plain = [kind for kind in kinds if kind != {"type": "null"}]
    if len(plain) == 1:
        null = ["null"] if len(kinds) > 1 else []
        return plain[0] | ({"type": [plain[0]["type"], *null]} if null else {})
    return {"anyOf": kinds}


def _of_kind(kind: str, field: Field) -> Node:
    """One type of a field, with its bound."""
    low, high = field.bound or (None, None)
    number: Node = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
    lengths = {} if low is None else {"minItems": low, "maxItems": high}
    match kind:
        case "number" | "whole":
            bounds = {} if low is None else {"minimum": low, "maximum": high}
            return {**number, **bounds, "type": "integer" if kind == "whole" else "number"}
        case "text":
            free = low is None or field.type == "numbers | text"
            return {"type": "string", **({} if free else {"minLength": low, "maxLength": high})}
        case "texts":
            return {"type": "array", "items": {"type": ["string", "null"]}, **lengths}
        case "numbers":
            return {"type": "array", "items": number, **lengths}
        case "pair":
            return {"type": "array", "items": number, "minItems": 2, "maxItems": 2}
        case "rows":
            return {"type": "array", "items": {"type": "object"}, **lengths}
        case _:
            return {"type": kind}


def main(folder: str) -> None:
    """Write the JSON schema into a folder and print the table."""
    (Path(folder) / FILE).write_text(text())
    print(markdown(), end="")


if __name__ == "__main__":
    main(*sys.argv[1:])
