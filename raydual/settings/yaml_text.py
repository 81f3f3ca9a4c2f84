"""YAML in and out: the core of YAML 1.2, no tags beyond it, no key twice, no nesting or repetition without end."""

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from raydual.errors import UserError, shown

_DEEPEST = 50
_MOST_REPEATED = 10_000
_CORE = ("null", "bool", "int", "float", "str", "seq", "map")
_NUMBERS = (
    ("int", r"[-+]?(?:0|[1-9][0-9_]*|0x[0-9a-fA-F_]+)", "-+0123456789"),
    ("float", r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9]+|[0-9]+(?=[eE]))(?:[eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)", "-+."),
)
"""`1e-4` is a number; `010` (octal in YAML 1.1), `1:30` (sexagesimal) and dates are words."""


_OTHER_BREAKS = frozenset("\x85\u2028\u2029\ufeff")
"""Characters that YAML takes for line breaks, or leaves out."""


def _tag(name: str) -> str:
    return f"tag:yaml.org,2002:{name}"


def _with_our_numbers(resolver: type) -> None:
    kept = {_tag(name) for name in ("null", "bool", "merge")}
    resolver.yaml_implicit_resolvers = {  # type: ignore[attr-defined]
        first: [(tag, pattern) for tag, pattern in found if tag in kept]
        for first, found in resolver.yaml_implicit_resolvers.items()  # type: ignore[attr-defined]
    }
    for name, pattern, first in _NUMBERS:
        resolver.add_implicit_resolver(_tag(name), re.compile(f"^(?:{pattern})$"), list(first))  # type: ignore[attr-defined]


def _refused(problem: str, mark: Any) -> ConstructorError:
    return ConstructorError(None, None, problem, mark)


class _Loader(yaml.SafeLoader):
    """Refuses what `yaml.SafeLoader` reads without a word, or reads without end."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = self._nodes = self._repeated = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        event: Any = self.peek_event()
        before = self._nodes
        if self._depth == _DEEPEST:
            raise _refused(f"nested more than {_DEEPEST} deep", event.start_mark)
        self._depth += 1
        node = super().compose_node(parent, index)
        self._depth -= 1
        if isinstance(event, yaml.AliasEvent):
            if id(node) not in self._sizes:
                raise _refused(f"*{event.anchor} is a part of itself", event.start_mark)
            self._nodes += self._sizes[id(node)]
            self._repeated += self._sizes[id(node)]
            if self._repeated > _MOST_REPEATED:
                raise _refused("aliases repeat too much", event.start_mark)
        else:
            self._nodes += 1
            self._sizes[id(node)] = self._nodes - before
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if (key.tag, key.value) in seen:
                    raise _refused(f"the key {shown(key.value)} is given twice", key.start_mark)
                seen.add((key.tag, key.value))
        return node

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, LookupError, TypeError) as error:
            kind = node.tag.rpartition(":")[2]
            reason = f"{shown(node.value)} cannot be read as {kind}"
            raise _refused(reason, node.start_mark) from error

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        value.encode()  # half a surrogate pair, which an escape may write, fits into no file
        return value

    def refuse(self, node: Any) -> Any:
        """A value with a tag that isn't of the core."""
        tag = node.tag.replace(_tag(""), "!!")
        raise _refused(f"the tag {shown(tag)} is not read; write the value plainly", node.start_mark)


class _Dumper(yaml.SafeDumper):
    """Quotes every text that `_Loader` would read as something else."""

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def analyze_scalar(self, scalar: str) -> Any:
        found = super().analyze_scalar(scalar)
        if _OTHER_BREAKS.intersection(scalar):
            # Only escaped do they come back as they were.
            found.allow_flow_plain = found.allow_block_plain = found.allow_single_quoted = found.allow_block = False
        return found


class Block(str):
    """A text of several lines, that is written as such where YAML can."""


_Dumper.add_representer(Block, lambda dumper, text: dumper.represent_scalar(_tag("str"), str(text), style="|"))
for _resolver in (_Loader, _Dumper):
    _with_our_numbers(_resolver)
_Loader.yaml_constructors = {
    None: _Loader.refuse,
    **{_tag(name): _Loader.yaml_constructors[_tag(name)] for name in _CORE},
}


def parse_yaml(text: str, where: str) -> Any:
    """The content of a YAML text; a syntax error names `where` and the line."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader, and narrower
    except yaml.reader.ReaderError as error:
        line, found = text.count("\n", 0, error.position) + 1, shown(chr(error.character))
        raise UserError(f"{where}, line {line}: not valid YAML: the character {found} is not allowed") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line_words = f", line {mark.line + 1}" if mark else ""
        raise UserError(f"{where}{line_words}: not valid YAML: {_problem(error)}") from None


def _problem(error: yaml.YAMLError) -> str:
    problem = " ".join(str(getattr(error, "problem", None) or error).split())
    return "a second document begins" if problem == "but found another document" else problem


def dump_yaml(value: Any, **how: Any) -> str:
    """A YAML text that `parse_yaml` reads back to `value`."""
    return yaml.dump(value, Dumper=_Dumper, **how)
