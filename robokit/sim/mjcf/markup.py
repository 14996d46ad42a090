"""A reader of XML as lenient as MuJoCo's (tinyxml2): what MuJoCo loads it reads, and it refuses nothing.

So dashes in comments, attributes without a space between them, unknown entities, any encoding that contains
ASCII, control characters, text before the root and whatever stands after it are all right.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

_SPACE = r"[ \t\n\v\f\r]*"
_NAME = r"[A-Za-z_:\x80-\U0010ffff][A-Za-z0-9_:.\-\x80-\U0010ffff]*"
_SKIPPED = re.compile(r"<!--.*?-->|<!\[CDATA\[.*?\]\]>|<!(?!--|\[CDATA\[)[^>]*>|<\?.*?\?>", re.DOTALL)
_BEGIN = re.compile(f"<{_SPACE}(/?)({_NAME})")
_ATTRIBUTE = re.compile(f"{_SPACE}({_NAME}){_SPACE}={_SPACE}(\"[^\"]*\"|'[^']*')")
_END = re.compile(f"{_SPACE}(/?)>")
_ENTITY = re.compile(r"&(?:(quot|amp|apos|lt|gt)|#(\d{1,7})|#x([0-9a-fA-F]{1,6}));")
_ENTITIES = {"quot": '"', "amp": "&", "apos": "'", "lt": "<", "gt": ">"}


class Element(NamedTuple):
    """One element: its depth (the root's is 0), tag and attributes."""

    depth: int
    tag: str
    attributes: dict[str, str]


def elements(data: bytes) -> Iterator[Element]:
    """The elements of the first root, in order, up to the first place that MuJoCo cannot read either.

    Bytes that are not UTF-8 are kept as in Python's file names (surrogateescape).
    """
    text, at, depth = data.partition(b"\0")[0].decode("utf-8", "surrogateescape"), 0, 0
    while (at := text.find("<", at)) >= 0:
        if skipped := _SKIPPED.match(text, at):
            at = skipped.end()
            continue
        begin = _BEGIN.match(text, at)
        if begin is None:
            return
        at, attributes = begin.end(), dict[str, str]()
        while attribute := _ATTRIBUTE.match(text, at):
            value = _ENTITY.sub(_character, attribute[2][1:-1]).partition("\0")[0]
            attributes.setdefault(attribute[1], value)
            at = attribute.end()
        end = _END.match(text, at)
        if end is None:
            return
        at = end.end()
        if not begin[1]:
            yield Element(depth, begin[2], attributes)
        depth += 0 if end[1] else -1 if begin[1] else 1
        if depth <= 0:
            return


def _character(entity: re.Match[str]) -> str:
    if entity[1]:
        return _ENTITIES[entity[1]]
    code = int(entity[2]) if entity[2] else int(entity[3], 16)
    return chr(code) if code < 0x110000 else entity[0]
