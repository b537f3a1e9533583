"""A strict reader of YAML: each mistake is reported with its file, line and key.

PyYAML's own constructor keeps the last of two equal keys and forgets where a value stood. This one walks the
parsed nodes instead, so that a misspelt key or a wrong type can be named where it is.
"""

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import yaml

from ltxops.errors import BadInput
from ltxops.models.durable import reason

_STRING = "tag:yaml.org,2002:str"
_INTEGER = "tag:yaml.org,2002:int"
_BOOLEAN = "tag:yaml.org,2002:bool"


def did_you_mean(word: str, known: Collection[str]) -> str:
    """Return `; did you mean 'x'?` for the name closest to `word`, or nothing when none is close."""
    close = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


@dataclass(frozen=True)
class Value:
    """One node of a document, with the key path that leads to it (`models.x.dest`)."""

    source: Path
    key: str
    node: yaml.Node

    def error(self, message: str) -> BadInput:
        """Return the error `FILE:LINE: KEY: MESSAGE`, ready to be raised."""
        where = f"{self.source}:{self.node.start_mark.line + 1}: "
        return BadInput(where + (f"{self.key}: {message}" if self.key else message))

    def mapping(
        self, known: Collection[str] | None = None, required: Collection[str] = ()
    ) -> dict[str, "Value"]:
        """Return the entries of a mapping; `known` lists the keys it may have (any, when None)."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping of keys to values, not {self._kind()}")
        entries: dict[str, Value] = {}
        for key_node, value_node in self.node.value:
            at_key = Value(self.source, self.key, key_node)
            name = at_key.string()
            if name in entries:
                raise at_key.error(f"key '{name}' is given twice")
            if known is not None and name not in known:
                listed = ", ".join(known)
                raise at_key.error(f"unknown key '{name}'{did_you_mean(name, known)} (known: {listed})")
            entries[name] = Value(self.source, f"{self.key}.{name}".lstrip("."), value_node)
        for name in required:
            if name not in entries:
                raise self.error(f"key '{name}' is missing")
        return entries

    def sequence(self) -> list["Value"]:
        """Return the items of a list."""
        if not isinstance(self.node, yaml.SequenceNode):
            raise self.error(f"must be a list, not {self._kind()}")
        return [
            Value(self.source, f"{self.key}[{index}]", item) for index, item in enumerate(self.node.value)
        ]

    def string(self) -> str:
        """Return a string that is not empty."""
        text = self._scalar(_STRING, "a string")
        if not text:
            raise self.error("must not be empty")
        return text

    def integer(self) -> int:
        """Return a whole number of 0 or more, in decimal notation."""
        text = self._scalar(_INTEGER, "a whole number")
        if not text.isascii() or not text.isdigit():
            raise self.error(f"must be a whole number of 0 or more, not {text!r}")
        return int(text)

    def boolean(self) -> bool:
        """Return true or false."""
        return self._scalar(_BOOLEAN, "true or false").lower() in ("true", "yes", "on")

    def is_null(self) -> bool:
        """Tell whether the value was left out (`key:`) or is `null`."""
        return self.node.tag == "tag:yaml.org,2002:null"

    def _scalar(self, tag: str, wanted: str) -> str:
        if not isinstance(self.node, yaml.ScalarNode) or self.node.tag != tag:
            raise self.error(f"must be {wanted}, not {self._kind()}")
        text: str = self.node.value
        return text

    def _kind(self) -> str:
        if isinstance(self.node, yaml.MappingNode):
            return "a mapping"
        if isinstance(self.node, yaml.SequenceNode):
            return "a list"
        return "nothing" if self.is_null() else repr(self.node.value)


def read(path: Path) -> Value:
    """Return the root of the document in `path`. Raises BadInput when it cannot be read as YAML."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"{path}: there is no such file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path}: cannot be read: {reason(error)}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise BadInput(f"{path}:{line}: is not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise BadInput(f"{path}: is not valid YAML: {error}") from None
    if node is None:
        raise BadInput(f"{path}: is empty")
    return Value(path, "", node)
