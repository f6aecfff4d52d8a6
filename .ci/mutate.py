"""Mutation testing: break a module in one place at a time, and see that a test fails.

    .venv/bin/python .ci/mutate.py spmix_aug/functional/patches.py tests/test_patches.py

takes a module, and what pytest shall run: files, and options such as `-k "not compil"`. It prints
the mutants that survive. Each is written into a copy of the checkout, where the tests run up to the
first failure, in a fork of a process that has torch and the rest imported already: about a second a
mutant. More than SECONDS count as killed.

Changed are arithmetic, comparisons, `and` and `or`, `not`, unary minus, numbers, truth values and
strings; conditions are negated; a keyword argument, a method call (`x.clamp(min=0)` to `x`), a
bound of a slice, a decorator, a `with`, and a statement that calls, raises, or assigns to an
attribute or an item are left out; loops run over nothing. Left alone are annotations, docstrings,
`__repr__`, and the messages of errors.
"""

import ast
import difflib
import gc
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("spmix_aug", "tests", "examples", "benchmarks", "pyproject.toml")
SECONDS = 120
OPTIONS = (
    *("-x", "-q", "-p", "no:cacheprovider", "--assert=plain", "-m", "not slow"),
    "--hypothesis-profile=mutants",
)
IMPORTED = """torch._dynamo torchvision.transforms.v2 kornia timm captum.attr torchcam.methods cv2
scipy.stats scipy.ndimage sklearn.metrics PIL.Image pytest hypothesis.extra.numpy"""
SWAPS = {  # of operators, as they are written
    ast.Add: ("+", "-"), ast.Sub: ("-", "+"), ast.Mult: ("*", "/"), ast.Div: ("/", "*"),
    ast.FloorDiv: ("//", "/"), ast.Mod: ("%", "*"), ast.Pow: ("**", "*"),
    ast.And: ("and", "or"), ast.Or: ("or", "and"),
    ast.Lt: ("<", "<=", ">="), ast.LtE: ("<=", "<", ">"),
    ast.Gt: (">", ">=", "<="), ast.GtE: (">=", ">", "<"),
    ast.Eq: ("==", "!="), ast.NotEq: ("!=", "=="), ast.Is: ("is", "is not"),
    ast.IsNot: ("is not", "is"), ast.In: ("in", "not in"), ast.NotIn: ("not in", "in"),
}  # fmt: skip
MODULES_IN_CALLS = {"torch", "F", "math", "nn", "self", "_checks", "super()"}
Change = tuple[int, int, str]


def parts(node: ast.AST) -> Iterator[ast.AST]:
    """List the parts of a node in which something may be changed."""
    if isinstance(node, (ast.Raise, ast.JoinedStr)) or getattr(node, "name", "") == "__repr__":
        return
    checks = ast.unparse(node).startswith(("_checks.", "expect("))
    for field, value in ast.iter_fields(node):
        for part in value if isinstance(value, list) else [value]:
            docstring = isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant)
            message = checks and isinstance(part, ast.Constant) and isinstance(part.value, str)
            typing = field in ("annotation", "returns")
            if isinstance(part, ast.AST) and not (docstring or message or typing):
                yield part


class Changes:
    """Lists the changes of a source: from where to where, and what it becomes."""

    def __init__(self, source: str) -> None:
        self.source = source
        lines = source.splitlines(keepends=True)
        self.starts = [sum(map(len, lines[:i])) for i in range(len(lines))]
        self.dropped: list[ast.AST] = []  # calls that are statements, and dropped as such

    def _span(self, node: ast.AST) -> tuple[int, int]:
        start = self.starts[node.lineno - 1] + node.col_offset
        return start, self.starts[node.end_lineno - 1] + node.end_col_offset

    def _text(self, node: ast.AST) -> str:
        return self.source[slice(*self._span(node))]

    def _swaps(self, operands: list[ast.AST], operators: list[ast.AST]) -> Iterator[Change]:
        for left, right, operator in zip(operands, operands[1:], operators, strict=False):
            start, end = self._span(left)[1], self._span(right)[0]
            old, *new = SWAPS.get(type(operator), ("",))
            yield from ((start, end, self.source[start:end].replace(old, n, 1)) for n in new)

    def _of(self, node: ast.AST) -> Iterator[Change]:
        start, end = self._span(node) if hasattr(node, "lineno") else (0, 0)
        match node:
            case ast.BinOp():
                yield from self._swaps([node.left, node.right], [node.op])
            case ast.Compare():
                yield from self._swaps([node.left, *node.comparators], node.ops)
            case ast.BoolOp():
                yield from self._swaps(node.values, [node.op] * len(node.values))
            case ast.UnaryOp(op=ast.Not() | ast.USub()):
                yield start, start + (4 if isinstance(node.op, ast.Not) else 1), ""
            case ast.Constant(value=bool()):
                yield start, end, str(not node.value)
            case ast.Constant(value=int()):
                yield from ((start, end, str(node.value + step)) for step in (1, -1))
            case ast.Constant(value=float()):
                yield from ((start, end, repr(node.value * f or 1.0)) for f in (2, 0.5))
            case ast.Constant(value=str()):
                yield start, end, repr(f"XX{node.value}")
            case ast.Slice():
                yield from ((*self._span(side), "") for side in (node.lower, node.upper) if side)
            case ast.Expr(value=ast.Call()) | ast.AugAssign() | ast.Raise():
                if isinstance(node, ast.Expr):
                    self.dropped.append(node.value)
                yield start, end, "pass"
            case ast.Assign(targets=[ast.Attribute() | ast.Subscript()]):
                yield start, end, "pass"
            case ast.For():
                yield *self._span(node.iter), "[]"
            case ast.withitem(optional_vars=None):
                yield *self._span(node.context_expr), "__import__('contextlib').nullcontext()"
            case ast.Call():
                for keyword in (keyword for keyword in node.keywords if keyword.arg):
                    first, last = self._span(keyword)
                    yield first, last + self.source[last:].startswith(","), ""
                receiver = getattr(node.func, "value", None)
                receiver = self._text(receiver) if receiver else "self"
                if receiver not in MODULES_IN_CALLS and node not in self.dropped:
                    yield start, end, f"({receiver})"
        for decorator in getattr(node, "decorator_list", ()):
            yield self._span(decorator)[0] - 1, self._span(decorator)[1], ""
        conditions = [getattr(node, "test", ast.Constant(1)), *getattr(node, "ifs", ())]
        for test in conditions:
            if not isinstance(test, (ast.Compare, ast.UnaryOp, ast.Constant)):
                yield *self._span(test), f"not ({self._text(test)})"

    def all(self) -> Iterator[str]:
        """List the mutants, whole sources in each of which one place is changed."""
        waiting: list[ast.AST] = [ast.parse(self.source)]
        found = set()
        while waiting:
            node = waiting.pop()
            waiting += parts(node)
            found |= set(self._of(node))
        for start, end, new in sorted(found):
            mutant = self.source[:start] + new + self.source[end:]
            try:
                compile(mutant, "mutant", "exec")
            except SyntaxError:
                continue
            yield mutant


def run_tests(arguments: list[str]) -> None:
    """Exit with what pytest says."""
    import pytest

    silent = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silent, 1)
    os.dup2(silent, 2)
    os._exit(pytest.main([*OPTIONS, *arguments]))


def survives(arguments: list[str]) -> bool:
    """Return whether the tests pass."""
    process = get_context("fork").Process(target=run_tests, args=(arguments,))
    process.start()
    process.join(SECONDS)
    process.kill()
    process.join()
    return process.exitcode == 0


def prepare(folder: Path) -> None:
    """Copy the checkout into a folder, beside the real images, and import what tests import."""
    checkout = folder / "checkout"
    checkout.mkdir()
    for name in COPIED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, checkout / name)
    (folder / "shared").symlink_to(ROOT.parent / "shared")
    os.chdir(checkout)
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "5000", "PYTHONPATH": str(checkout)}
    # No bytecode of a mutant may be kept, and none of the original be taken.
    os.environ["PYTHONDONTWRITEBYTECODE"], sys.dont_write_bytecode = "1", True
    for cache in list(checkout.rglob("__pycache__")):
        shutil.rmtree(cache)
    sys.path.insert(0, str(checkout))
    for module in IMPORTED.split():
        importlib.import_module(module)
    gc.freeze()  # pytest collects garbage several times, and would go through all of that
    from hypothesis import HealthCheck, Phase, settings

    settings.register_profile(
        "mutants", derandomize=True, database=None, deadline=None, max_examples=60,
        phases=[Phase.explicit, Phase.generate], suppress_health_check=list(HealthCheck),
    )  # fmt: skip


def main(module: str, *arguments: str) -> None:
    """Print each survivor as it is found, then how many there were."""
    path = Path(module)
    source = path.read_text()
    if not survives(list(arguments)):
        sys.exit("The tests fail without a mutant.")
    killed = survived = 0
    for mutant in Changes(source).all():
        path.write_text(mutant)
        if survives(list(arguments)):
            survived += 1
            difference = difflib.unified_diff(source.splitlines(), mutant.splitlines(), n=0)
            print(f"\n{path}", *list(difference)[2:], sep="\n", flush=True)
        else:
            killed += 1
    print(f"\n{killed} of {killed + survived} mutants killed: {killed / (killed + survived):.1%}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        main(*sys.argv[1:])
