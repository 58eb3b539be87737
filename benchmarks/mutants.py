"""The mutants of a file: where it can be changed, and the change drawn there.

cosmic-ray's operators (another arithmetic or comparison operator, a number plus or minus one, a
sign or `not` left out, a boolean, a negated condition, a decorator or loop left out), and one of
ours, a method call left out (`x.exp()` to `x`), since that is where the mathematics stands here.
Text, annotations, caches and figure styles are left alone.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from pathlib import Path
from typing import Any

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Operator
from cosmic_ray.operators.provider import OperatorProvider

from dft_theory.seeding import seed_of

ROOT = Path(__file__).resolve().parents[1]
SEED = 0
CLAIM = re.compile(r'\s*Claim\(\s*name="([\w-]+)"')
WRONG_SIDE = re.compile(r"\s*(Mutant|Published)\(")
# Of cosmic-ray's replacements those that mean something for numbers: to shift a tensor of floats
# raises an error whatever the tests are, and would only polish the score.
NUMBERS = "Add|Sub|Mul|Div|Pow"
KEPT = re.compile(
    rf"ReplaceBinaryOperator_(({NUMBERS})_({NUMBERS})|FloorDiv_Div|BitAnd_BitOr|BitOr_BitAnd)"
    r"|ReplaceComparisonOperator_((Eq|NotEq|[LG]tE?)_(Eq|NotEq|[LG]tE?)|Is_IsNot|IsNot_Is)"
    r"|ReplaceUnaryOperator_Delete_\w+|(?!ReplaceBinary|ReplaceComp|ReplaceUnary|Variable)\w+"
)


@dataclass(frozen=True)
class Place:
    """Where a file can be changed, and how. Its `rank` outlives edits elsewhere in the file."""

    rank: int
    path: Path
    line: int
    choices: tuple[tuple[int, str, int], ...]  # number of the node, operator, index


@dataclass(frozen=True)
class Change:
    """A changed file: `before` and `after` are what differs, `within` their function or claim."""

    file: str
    line: int
    within: str
    operator: str
    before: str
    after: str
    wrong_side: bool  # inside `Mutant(...)` or `Published(...)`
    source: str


class LeaveOutCall(Operator):
    """`x.f(...)` becomes `x`, unless `x` is an imported name."""

    def mutation_positions(self, node):
        return [(node.children[i].start_pos, node.children[i + 1].end_pos) for i in calls(node)]

    def mutate(self, node, index):
        at = calls(node)[index]
        del node.children[at : at + 2]
        return node

    @classmethod
    def examples(cls):
        return ()


def calls(node) -> list[int]:
    """Where `.f` `(...)` stands among the children of an expression."""
    if node.type not in ("atom_expr", "power"):
        return []
    starts = [c.children[0].value if c.type == "trailer" else "" for c in node.children]
    named = getattr(node.children[0], "value", "") in imported(node.get_root_node())
    return [i for i in range(1 + named, len(starts) - 1) if starts[i : i + 2] == [".", "("]]


@lru_cache(maxsize=1)
def imported(tree) -> set[str]:
    return {n.value for found in tree.iter_imports() for n in found.get_defined_names()}


PROVIDER = OperatorProvider()
OPERATORS = {name: PROVIDER[name]() for name in PROVIDER if KEPT.fullmatch(name)}
OPERATORS |= {"LeaveOutCall": LeaveOutCall()}


def left_alone(node) -> bool:
    """Whether the node is text, an annotation, a cache or a figure's style."""
    return (node.type == "decorator" and "cache" in node.get_code()) or any(
        parent.type in ("fstring", "tfpdef")
        or (parent.type == "annassign" and child is parent.children[1])
        or (parent.type == "funcdef" and child is parent.annotation)
        or (parent.type == "argument" and getattr(parent.children[0], "value", "") == "style")
        for child, parent in around(node)
    )


def around(node) -> Iterator[tuple[Any, Any]]:
    """Each node and its parent, from `node` to the whole file."""
    while node.parent is not None:
        yield node, node.parent
        node = node.parent


def places(path: Path) -> Iterator[Place]:
    """Every place of a file."""
    source, file = path.read_text(), path.relative_to(ROOT).as_posix()
    found: dict[Any, list[tuple[int, str, int]]] = {}
    for number, node in enumerate(ast_nodes(get_ast(source))):
        if not left_alone(node):
            for name, operator in OPERATORS.items():
                for index, span in enumerate(operator.mutation_positions(node)):
                    found.setdefault(span, []).append((number, name, index))
    seen: Counter[str] = Counter()
    for ((line, column), _), choices in sorted(found.items()):
        key = f"{column} {source.splitlines()[line - 1]}"
        seen[key] += 1
        yield Place(seed_of(SEED, file, key, seen[key]), path, line, tuple(choices))


def drawn(place: Place) -> Change | None:
    """The change drawn at a place: the first that is Python, and another program."""
    source = place.path.read_text()
    for i in range(len(place.choices)):
        number, operator, index = place.choices[(place.rank + i) % len(place.choices)]
        node = list(ast_nodes(get_ast(source)))[number]
        parents = [parent for _, parent in around(node)]
        functions = [p.name.value for p in parents if p.type == "funcdef"]
        claims = [found[1] for p in parents if (found := CLAIM.match(p.get_code()))]
        wrong = any(WRONG_SIDE.match(p.get_code()) for p in parents)
        siblings = parents[0].children
        at = next(i for i, sibling in enumerate(siblings) if sibling is node)
        new = OPERATORS[operator].mutate(node, index)
        siblings[at : at + 1] = [] if new is None else [new]
        text = parents[-1].get_code()
        if is_another(text, source):
            file = place.path.relative_to(ROOT / "dft_theory").as_posix()
            within = (functions or claims or [""])[0]
            return Change(file, place.line, within, operator, *differ(source, text), wrong, text)
    return None


def is_another(text: str, source: str) -> bool:
    try:
        return ast.dump(ast.parse(text)) != ast.dump(ast.parse(source))
    except SyntaxError:
        return False


def differ(source: str, text: str) -> tuple[str, str]:
    """The lines that differ, each side on one line."""
    old, new = source.splitlines(), text.splitlines()
    head = equal(old, new)
    tail = equal(old[head:][::-1], new[head:][::-1])
    before, after = (" ".join(" ".join(t[head : len(t) - tail]).split()) for t in (old, new))
    return before, after


def equal(old: list[str], new: list[str]) -> int:
    """How many lines agree before the first that do not."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(old, new, strict=False)))
