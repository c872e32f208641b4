"""A YAML file as plain values: read safely, of a sane size, and strictly."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import yaml

from extsub.errors import ExtSubError
from extsub.escaping import brief, shown
from extsub.files.reading import read_bytes

LARGEST = 2**20
"""The most bytes of a YAML file."""

MOST_VALUES = 20_000
"""The most values in a YAML file, each counted wherever an alias (``*name``) repeats it."""

DEEPEST = 50
"""The deepest level of a YAML file."""

LONGEST_NUMBER = 100
"""The most characters of a number; YAML 1.1 has some in base 60, which take long."""


class _Loader(yaml.SafeLoader):
    """YAML's safe one, without what it lets a file do: keep the last of two values of the same name, be larger than it
    looks, or raise anything but a YAMLError."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values, self.level = 0, 0
        self.sizes: dict[yaml.Node, int] = {}
        """The number of values in each node that is complete."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        event, before = self.peek_event(), self.values
        self.level += 1
        if self.level > DEEPEST:
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=event.start_mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        if node is None:
            return None
        if isinstance(event, yaml.AliasEvent):
            if node not in self.sizes:
                raise yaml.MarkedYAMLError(problem="a value that holds itself", problem_mark=event.start_mark)
            self.values += self.sizes[node]
        else:
            self.values += 1
            self.sizes[node] = self.values - before
        if self.values > MOST_VALUES:
            raise yaml.MarkedYAMLError(problem=f"more than {MOST_VALUES:,} values", problem_mark=event.start_mark)
        return node

    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        names = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if len(names) < len(node.value) and (twice := [name for name, count in names.items() if count > 1]):
            raise yaml.MarkedYAMLError(problem=f"{brief(twice[0])} is there twice", problem_mark=node.start_mark)
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        kind = node.tag.rpartition(":")[2]
        try:
            if kind in ("int", "float") and len(node.value) > LONGEST_NUMBER:
                raise ValueError
            return super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, ArithmeticError) as error:  # 2001-13-45, !!bool x
            article = "an" if kind == "int" else "a"
            said = f"{shown(node.value)} is not {article} {kind}: put text in quotes"
            raise yaml.MarkedYAMLError(problem=said, problem_mark=node.start_mark) from error


def read_yaml(where: str, path: Path) -> Any:
    """What a YAML file holds.

    Raises:
        ExtSubError: it is not there, or not YAML, or a name stands in it twice, or it is larger than anybody writes.
    """
    try:
        text = read_bytes(path, LARGEST).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ExtSubError(f"{where}: not UTF-8") from error
    except OSError as error:
        said = error.strerror or "cannot be read"
        raise ExtSubError(f"{where}: {said[:1].lower()}{said[1:]}") from error
    try:
        return _Loader(text).get_single_data()
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise ExtSubError(f"{where}: not YAML ({brief(problem or error)}{at})") from error
