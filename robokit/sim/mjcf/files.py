"""The files of a model: itself, what it includes, the models that it attaches; and faults that hang or crash.

MuJoCo looks for an included file beside the model, then beside the file that names it; ".." is taken out of
a path as text, before any link is followed, and "\\" counts as "/".
"""

import os
import re
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path

from robokit.errors import ModelError, reason
from robokit.sim.mjcf.markup import Element, elements

MAX_REPLICAS = 5_000  # copies from nested <replicate>: MuJoCo's compile time grows with their square
MAX_FILES, MAX_NESTED = 2_000, 50  # files of a model; models attached in one another
MAX_TEXT = 1 << 30  # bytes of a file in an archive
ARCHIVES = (".mjz", ".zip")
_WORDS = re.compile(  # attributes that hold names, paths or text
    r"\w*name|\w*class|\w*dir|\w*site|file\w*|(body|geom|joint|tendon|site)[12]|body|geom|joint|jointinparent"
    r"|tendon|mesh|material|texture|hfield|skin|flex|model|link|actuator|target|prefix|suffix|plugin|instance|key"
)
_TEXTS = {("text", "data"), ("config", "value")}  # of these elements alone
_NAN = re.compile(r"[+-]?nan(\(\w*\))?", re.IGNORECASE)
_NUMBER = re.compile(r"[+-]?(nan(\(\w*\))?|inf|infinity|[0-9.][0-9.e+-]*)", re.IGNORECASE)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_COUNT = re.compile(r"\s*\+?([0-9]+)\s*", re.ASCII)


@dataclass
class _Found:
    """What the files of one model name."""

    files: list[Path] = field(default_factory=list)
    models: list[tuple[str, Path]] = field(default_factory=list)  # name, file of each attached model
    copies: dict[str, int] = field(default_factory=dict)  # of a model, by the <replicate> around its <attach>


def shown(path: str | Path) -> str:
    """A path for a message: bytes that are not UTF-8 as \\xf6, a new line as \\n."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    return _CONTROL.sub(lambda found: repr(found[0])[1:-1], text)


def model_files(model: Path) -> list[Path]:
    """The model's file, its includes and attached models, or the archive alone.

    Raises ModelError for a file that cannot be read, a NaN in it, nested <replicate> with more than
    MAX_REPLICAS copies, a file that includes or attaches itself, and for more files than MAX_FILES.
    """
    if model.suffix in ARCHIVES:
        _check_archive(model)
        return [model]
    files: list[Path] = []
    _add(files, model, 1, ())
    return list(dict.fromkeys(files))


def _add(files: list[Path], model: Path, copies: int, parents: tuple[str, ...]) -> None:
    """Append the files of a model that stands there `copies` times; parents: real paths of those around."""
    found = _Found()
    waiting = [(model, copies, parents)]
    while waiting:
        path, number, above = waiting.pop(0)
        real = os.path.realpath(path)
        if real in above:
            raise ModelError(f"{shown(path)} includes itself")
        if len(files) >= MAX_FILES or len(parents) > MAX_NESTED:
            rule = f"at most {MAX_FILES} files, and {MAX_NESTED} models within one another"
            raise ModelError(f"{shown(model)}: a model may have {rule}")
        files.append(path)
        includes = _read(path, model.parent, number, found)
        waiting += [(include, n, (*above, real)) for include, n in includes]
    for name, path in found.models:
        _add(files, path, found.copies.get(name, copies), (*parents, os.path.realpath(model)))


def _read(path: Path, folder: Path, replicas: int, found: _Found) -> list[tuple[Path, int]]:
    """The includes of one file, each with its copies; notes its models in `found`. folder: of the model."""
    copies, includes = [replicas], list[tuple[Path, int]]()
    for element in elements(_bytes(path)):
        del copies[element.depth + 1 :]
        copies.append(_checked(element, path, copies[-1]))
        _, tag, attributes = element
        if tag == "attach" and (name := attributes.get("model")):
            found.copies[name] = max(found.copies.get(name, 0), copies[-1])
        if tag in ("include", "model") and (file := attributes.get("file")):
            plain = file.replace("\\", "/")
            places = (os.path.normpath(start / plain) for start in (folder, path.parent))
            for place in [place for place in places if os.path.isfile(place)][:1]:
                if tag == "include":
                    includes.append((Path(place), copies[-1]))
                else:
                    found.models.append((attributes.get("name", ""), Path(place)))
    return includes


def _checked(element: Element, path: Path, copies: int) -> int:
    """Copies of what is in the element, of which there are `copies`. Raises ModelError for the two faults."""
    _, tag, attributes = element
    if tag == "replicate" and (count := _COUNT.fullmatch(attributes.get("count", ""))):
        copies *= max(1, int(count[1][:9]))
    if copies > MAX_REPLICAS:
        rule = f"asks for {copies} copies; at most {MAX_REPLICAS}"
        raise ModelError(f"{shown(path)}: nested <replicate> {rule}")
    for attribute, text in attributes.items():
        if "nan" in text.lower() and _has_nan(tag, attribute, text):  # MuJoCo would use its default
            raise ModelError(f"{shown(path)}: <{tag} {attribute}={text[:80]!r}> is not a number")
    return copies


def _has_nan(tag: str, attribute: str, text: str) -> bool:
    """Whether an attribute holds numbers and one of them is NaN; MuJoCo refuses a word among numbers."""
    if _WORDS.fullmatch(attribute) or (tag, attribute) in _TEXTS:
        return False
    words = text.split()
    return any(map(_NAN.fullmatch, words)) and all(map(_NUMBER.fullmatch, words))


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read {shown(path)}: {reason(error, path)}") from error


def _check_archive(path: Path) -> None:
    """The faults within each file of an archive; MuJoCo itself refuses a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.infolist():
                if member.file_size > MAX_TEXT:
                    rule = f"holds {member.file_size} bytes of {member.filename!r}; at most {MAX_TEXT}"
                    raise ModelError(f"{shown(path)} {rule}")
                if member.filename.endswith((".xml", ".urdf")):
                    copies = [1]
                    for element in elements(archive.read(member)):
                        del copies[element.depth + 1 :]
                        copies.append(_checked(element, path / member.filename, copies[-1]))
    except (OSError, zipfile.BadZipFile, RuntimeError, EOFError, zlib.error):
        return
