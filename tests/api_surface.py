"""The public names with their signatures as text; `python -m tests.api_surface` writes it down.

Read from the sources rather than from live objects, whose annotations and defaults each version of
Python shows in its own way.
"""

import ast
import hashlib
import inspect
import sys
import textwrap
from pathlib import Path

import spmix_aug
from spmix_aug import functional, saliency, sampler, transform, viz

SNAPSHOT = Path(__file__).with_name("api_surface.txt")
SPECIAL = {"__init__", "__call__", "__iter__", "__len__"}
PUBLIC = {
    spmix_aug: spmix_aug.__all__,
    transform: ["BoundMix", "PairingFunction", "SaliencyFunction"],  # what users get, or write
    sampler: ["HeadTailSplit"],
    functional: [name for name in functional.__all__ if name.islower()],
    saliency: saliency.__all__,
    viz: [
        name
        for name, value in vars(viz).items()
        if inspect.isfunction(value) and value.__module__ == viz.__name__ and name[0] != "_"
    ],
}


def surface():
    """Describe all public names, in an order that does not depend on where they are defined."""
    parts = [part(module, name) for module, names in PUBLIC.items() for name in sorted(names)]
    return "\n\n".join(parts) + "\n"


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def part(module, name):
    value = getattr(module, name)
    members = {}  # a class's own replace those that it inherits from another one of ours
    for owner in reversed(getattr(value, "__mro__", ())):
        if owner.__module__.startswith("spmix_aug"):
            members |= members_of(definition(sys.modules[owner.__module__], owner.__name__))
    # Fields come first, in their order, which is that of a dataclass's arguments.
    order = sorted(members, key=lambda member: member if "def " in members[member][0] else "")
    lines = [f"{module.__name__}.{name}: {described(definition(module, name))}"]
    lines += [f"    {line}" for member in order for line in members[member]]
    return "\n".join(
        textwrap.fill(
            line, 100, subsequent_indent=" " * 8, break_long_words=False, break_on_hyphens=False
        )
        for line in lines
    )


def definition(module, name):
    """Find the node that defines a name of a module, there or where it is imported from."""
    for node in ast.parse(inspect.getsource(module)).body:
        if name in names_of(node):
            return node
    return definition(sys.modules[getattr(module, name).__module__], name)


def members_of(node):
    """Describe what is public in a class: `{name: one line, or one for each overload}`."""
    found = {}
    for child in node.body:
        if isinstance(child, ast.If):  # TYPE_CHECKING
            found |= members_of(child)
        for name in names_of(child):
            if name[0] != "_" or name in SPECIAL:
                found.setdefault(name, []).append(described(child))
        if names_of(child) == ["__init__"]:
            for name in sorted(attributes_of(child) - found.keys()):
                found[name] = [f"self.{name}"]
    return found


def names_of(node):
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return [node.name]
    targets = getattr(node, "targets", [getattr(node, "target", None)])
    return [target.id for target in targets if isinstance(target, ast.Name)]


def attributes_of(function):
    stored = (
        node.attr
        for node in ast.walk(function)
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    )
    return {name for name in stored if name[0] != "_"}


def described(node):
    """Write a definition without its body."""
    above = "".join(f"@{ast.unparse(each)} " for each in getattr(node, "decorator_list", []))
    if isinstance(node, ast.FunctionDef):
        returned = f" -> {ast.unparse(node.returns)}" if node.returns else ""
        return f"{above}def {node.name}({ast.unparse(node.args)}){returned}"
    if isinstance(node, ast.ClassDef):
        return f"{above}class {node.name}({', '.join(map(ast.unparse, node.bases))})"
    return ast.unparse(node)


if __name__ == "__main__":
    SNAPSHOT.write_text(surface(), encoding="utf-8")
    print(f"For the newest section of CHANGELOG.md: API surface: `{digest(surface())}`")
