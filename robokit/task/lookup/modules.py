"""The modules beside a task file: imported for this file alone, and listed without being imported.

`import my_terms` in a task file means my_terms.py in the file's folder, whatever the working folder and
however robokit was started. Only imports written in the files of this folder see it: a library never does. A
module of Python or of an installed package is not replaced by a file of its name; `from .random import x`
means the file.
"""

import ast
import builtins
import hashlib
import importlib
import site
import sys
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import CodeType, ModuleType

PREFIX = "_robokit_task_"  # of the package that stands for a task file's folder


def run(file: Path) -> ModuleType:
    """A task file (absolute), run as a new module, with new modules of what it imports from its folder."""
    package = PREFIX + hashlib.sha256(bytes(file)).hexdigest()[:12]
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
    importlib.invalidate_caches()
    folder = ModuleSpec(package, None, is_package=True)
    folder.submodule_search_locations = [str(file.parent)]
    sys.modules[package] = module_from_spec(folder)
    name = f"{package}.{file.stem.replace('.', '_')}"
    spec = spec_from_file_location(name, file, loader=_Loader(name, str(file)))
    assert spec is not None
    module = sys.modules[name] = module_from_spec(
        spec
    )  # inspect and dataclasses look a class's module up here
    try:
        _Loader(name, str(file)).exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def is_beside(top: str, folder: Path) -> bool:
    """Whether a top-level name is a module or package of a task's folder, and none of Python or installed."""
    package = folder / top
    here = package.with_name(f"{top}.py").is_file() or (package.is_dir() and any(package.glob("*.py")))
    return here and not is_installed(top)


@cache
def is_installed(top: str) -> bool:
    """Whether a top-level name is a module of Python, robokit, or in a folder of installed packages."""
    if top == "robokit" or top in sys.stdlib_module_names:
        return True
    paths = sysconfig.get_paths()
    folders = {paths["purelib"], paths["platlib"], *site.getsitepackages(), site.getusersitepackages()}
    spec = PathFinder.find_spec(top, sorted(folders))
    return spec is not None and spec.origin is not None  # a folder without __init__.py is no package


def modules_beside(file: Path) -> list[Path]:
    """The files of its folder that a file imports, and that these import, sorted; found by reading them."""
    files = [file]
    for this in files:  # grows during the loop
        files += [f for f in dict.fromkeys(_imported(this, file.parent)) if f not in files]
    return sorted(files[1:])


def _imported(file: Path, root: Path) -> Iterator[Path]:
    """The files in `root` that one file there imports, anywhere in it; none if it cannot be read."""
    try:
        nodes = [*ast.walk(ast.parse(file.read_bytes()))]
    except (SyntaxError, ValueError, OSError, RecursionError, MemoryError):
        return
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _files(alias.name.split("."), file, 0, root)
        elif isinstance(node, ast.ImportFrom):
            module = node.module.split(".") if node.module else []
            for alias in node.names:
                yield from _files([*module, alias.name], file, node.level, root)


def _files(names: Sequence[str], file: Path, level: int, root: Path) -> Iterator[Path]:
    """The files in `root` that are run for `names` of an import in `file`; level: its dots."""
    if level:
        folder = file.parents[min(level, len(file.parents)) - 1]
    elif is_beside(names[0], root):
        folder = root
    elif _is_name_of(names[0], root):
        folder, names = root, names[1:]
    else:
        return
    for name in names if folder.is_relative_to(root) else ():
        folder = folder / name
        for source in (folder / "__init__.py", folder.with_name(f"{name}.py")):
            if source.is_file():
                yield source


def _is_name_of(top: str, folder: Path) -> bool:
    """Whether a top-level name means the task's folder itself, as in `from tasks.base import Base`."""
    return top == folder.name and not is_installed(top)


class _Loader(SourceFileLoader):
    """Runs a source file of a task's folder; its imports see that folder. Bytecode is not used."""

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)  # what is hashed is what runs

    def exec_module(self, module: ModuleType) -> None:
        package = module.__name__.partition(".")[0]
        own = {"__import__": partial(_import, package)}
        module.__dict__["__builtins__"] = {**vars(builtins), **own}  # Python's own place for an import's rule
        super().exec_module(module)


class _Finder(MetaPathFinder):
    """Gives the modules in a task's folder their loader."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if path is None or not fullname.startswith(PREFIX):
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(fullname, spec.origin)
        return spec


def _import(
    package: str,
    name: str,
    globals: Mapping[str, object] | None = None,
    locals: Mapping[str, object] | None = None,
    fromlist: Sequence[str] | None = (),
    level: int = 0,
) -> ModuleType:
    """`__import__` for the files of a task's folder, which is `package`."""
    top, folder = name.partition(".")[0], Path(sys.modules[package].__path__[0])
    if level == 0 and is_beside(top, folder):
        name, top = f"{package}.{name}", f"{package}.{top}"
    elif level == 0 and _is_name_of(top, folder):
        name, top = package + name[len(top) :], package
    else:
        return builtins.__import__(name, globals, locals, fromlist or (), level)
    module = builtins.__import__(name, globals, locals, fromlist or (), 0)
    return module if fromlist else sys.modules[top]


sys.meta_path.insert(0, _Finder())
