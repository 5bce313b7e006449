"""The documented functions, classes and methods of the Python standard library, from its source.

Modules are parsed, never imported: nothing of them runs.
"""

import ast
import inspect
import re
import sysconfig
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

SKIPPED_FOLDERS = frozenset({"test", "tests", "idle_test", "turtledemo", "site-packages", "dist-packages", "_bundled"})

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

_SENTENCE_END = re.compile(r"[.!?](?=\s|$)|\n[ \t]*\n")


@dataclass(frozen=True, slots=True)
class Symbol:
    """One documented definition.

    name: qualified, e.g. `gzip.GzipFile.readline`. scope: the class or function around it, its own
    name for a class or for one that stands in a module. signature: what follows the name. summary:
    the docstring's first sentence; body: the rest.
    identifiers: names used in the code of a function, empty for a class. module_text: the module's
    docstring. file: below the library's root. arguments, statements and depth are counts;
    module_imports and name_uses count the modules that import its module and use its bare name.
    """

    name: str
    module: str
    scope: str
    kind: Literal["class", "method", "function"]
    signature: str
    summary: str
    body: str
    identifiers: tuple[str, ...]
    module_text: str
    file: str
    line: int
    arguments: int
    statements: int
    depth: int
    returns: bool
    decorated: bool
    module_imports: int
    name_uses: int


def library_root() -> Path:
    """Where the running Python keeps its standard library."""
    return Path(sysconfig.get_paths()["stdlib"])


def module_files(root: Path) -> list[Path]:
    """The library's own modules, without tests and without what others installed, sorted."""
    return sorted(
        file
        for file in root.rglob("*.py")
        if not SKIPPED_FOLDERS.intersection(file.relative_to(root).parts) and "-" not in str(file.relative_to(root))
    )


def read_symbols(
    root: Path, files: list[Path], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[Symbol]:
    """Every documented definition of these files, by qualified name; the first of a name wins.

    A file that this Python cannot parse (deliberately broken or of an older syntax) is passed over.
    progress: called with files done and files in all.
    """
    trees: list[tuple[Path, str, ast.Module]] = []
    for done, file in enumerate(files, start=1):
        with warnings.catch_warnings(), suppress(SyntaxError, ValueError):
            warnings.simplefilter("ignore")  # the library's own outdated escapes are not ours to report
            trees.append((file, _module_name(root, file), ast.parse(file.read_bytes())))
        progress(done, len(files))
    imports: Counter[str] = Counter()
    uses: Counter[str] = Counter()
    for _, module, tree in trees:
        nodes = list(ast.walk(tree))
        imports.update(_imported(nodes, module))
        uses.update(set(_identifiers(nodes)))
    symbols: dict[str, Symbol] = {}
    for file, module, tree in trees:
        for symbol in _symbols_of(tree, module, str(file.relative_to(root)), imports[module], uses):
            symbols.setdefault(symbol.name, symbol)
    return [symbols[name] for name in sorted(symbols)]


def split_docstring(docstring: str) -> tuple[str, str]:
    """The first sentence, on one line, and what follows it.

    >>> split_docstring("Read a line.\\n\\nAt most size bytes.")
    ('Read a line.', 'At most size bytes.')
    """
    text = inspect.cleandoc(docstring)
    end = _SENTENCE_END.search(text)
    cut = end.end() if end else len(text)
    return " ".join(text[:cut].split()), text[cut:].strip()


def _module_name(root: Path, file: Path) -> str:
    parts = file.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


def _imported(nodes: Iterable[ast.AST], module: str) -> set[str]:
    """The modules (and names in them) that a module imports."""
    found: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join([*module.split(".")[: -node.level or None], *filter(None, [node.module])])
            found.update([base, *(f"{base}.{alias.name}" for alias in node.names)])
    return found


def _identifiers(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr


def _symbols_of(tree: ast.Module, module: str, file: str, imports: int, uses: Counter[str]) -> Iterator[Symbol]:
    module_text = ast.get_docstring(tree) or ""
    for node, path, in_class in _definitions(tree, ()):
        docstring = ast.get_docstring(node, clean=False)
        summary, body = split_docstring(docstring) if docstring else ("", "")
        if not summary:
            continue
        is_class = isinstance(node, ast.ClassDef)
        inside = list(ast.walk(node))
        yield Symbol(
            name=".".join((module, *path)),
            module=module,
            scope=".".join((module, *(path if is_class else path[:-1] or path))),
            kind="class" if is_class else "method" if in_class else "function",
            signature=_signature(node),
            summary=summary,
            body=body,
            identifiers=() if is_class else tuple(_identifiers(inside)),
            module_text=module_text,
            file=file,
            line=node.lineno,
            arguments=0 if isinstance(node, ast.ClassDef) else len(_arguments(node.args)),
            statements=sum(isinstance(child, ast.stmt) for child in inside),
            depth=len(path),
            returns=any(isinstance(child, ast.Return) and child.value is not None for child in inside),
            decorated=bool(node.decorator_list),
            module_imports=imports,
            name_uses=uses[node.name],
        )


def _definitions(parent: ast.AST, path: tuple[str, ...]) -> Iterator[tuple[Definition, tuple[str, ...], bool]]:
    """Each definition below a node with its names from the module down, and whether it is a method."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Definition):
            inner = (*path, node.name)
            yield node, inner, isinstance(parent, ast.ClassDef)
            yield from _definitions(node, inner)
        elif isinstance(node, ast.stmt):
            yield from _definitions(node, path)


def _signature(node: Definition) -> str:
    """What stands behind the name: `(self, size=-1) -> bytes`, or `(BaseStream)` for a class."""
    if isinstance(node, ast.ClassDef):
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        return f"({bases})" if bases else ""
    returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returned}"


def _arguments(arguments: ast.arguments) -> list[ast.arg]:
    starred = [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs, *starred]
