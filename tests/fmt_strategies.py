"""YAML of every form that a person may give it: the formatter's input."""

from __future__ import annotations

from functools import cache
from typing import TypeAlias

from hypothesis import strategies as st

Tree: TypeAlias = "str | list[Tree] | dict[str, Tree]"

_WORDS = st.sampled_from(
    ["TN", "NO", "off", "unknown", "012345", "22:30", "300.5", "100 TND", "$challenge_above", "c-1", "", "#x",
     "a #b", "a: b", "- a", "it's", 'say "é"', "back\\slash", "two\nlines", "end\n", "a, b", "[x]", "{y}",
     " lead", "trail ", "x\n\ny", "\n", "?", "!z",
     "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"]
)  # fmt: skip
_KEYS = st.sampled_from(["merchant", "when", "then", "a b", "amount", "metadata.x", "no", "k#", "x:y", "it's"])
_COMMENTS = st.sampled_from(["# c", "#", "# why: {not: yaml}", "#- id: x", '# "quoted"', "# é"])


@cache
def trees() -> st.SearchStrategy[Tree]:
    return st.dictionaries(
        _KEYS,
        st.recursive(
            _WORDS,
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
            max_leaves=12,
        ),
        min_size=1,
        max_size=5,
    )


@cache
@st.composite
def yaml_texts(draw: st.DrawFn) -> str:
    """A document with comments, blank lines, quotes and indentation as they come."""
    writer = _Writer(draw)
    writer.noise(12)
    writer.block(draw(trees()), 0, "")
    writer.noise(12)
    text = "\n".join(writer.lines) + draw(st.sampled_from(["\n", "", "\n\n\n"]))
    return text.replace("\n", "\r\n") if draw(st.integers(0, 9)) == 0 else text


class _Writer:
    def __init__(self, draw: st.DrawFn) -> None:
        self.draw = draw
        self.lines: list[str] = []

    def one_in(self, number: int) -> bool:
        return self.draw(st.integers(1, number)) == number

    def noise(self, deepest: int) -> None:
        """Blank lines and comments of their own."""
        while self.one_in(5):
            self.lines.append(
                "" if self.one_in(2) else " " * self.draw(st.integers(0, deepest)) + self.draw(_COMMENTS)
            )

    def comment(self) -> str:
        return " " * self.draw(st.integers(1, 9)) + self.draw(_COMMENTS) if self.one_in(6) else ""

    def block(self, tree: Tree, column: int, lead: str) -> None:
        """A block collection whose first line continues `lead`."""
        assert not isinstance(tree, str)
        pairs = list(tree.items()) if isinstance(tree, dict) else [("", item) for item in tree]
        for number, (key, value) in enumerate(pairs):
            if number or not lead:
                self.noise(column + 4)
            start = lead if lead and not number else " " * column
            mark = self.scalar(key, key=True) + ":" if isinstance(tree, dict) else "-"
            self.value(value, column, start + mark, in_list=isinstance(tree, list))

    def value(self, value: Tree, column: int, start: str, *, in_list: bool) -> None:
        step = self.draw(st.integers(1, 4))
        if isinstance(value, str):
            first, *others = self.scalar(value, column=column + step).split("\n")
            opens_block = first[:1] in ("|", ">")
            self.lines += [f"{start} {first}" + ("" if others and not opens_block else self.comment()), *others]
        elif not value or self.one_in(3):
            self.flow(value, column + step, f"{start} ")
            self.lines[-1] += self.comment()
        elif in_list and self.one_in(2):
            gap = self.draw(st.integers(1, 3))
            self.block(value, len(start) + gap, start + " " * gap)
        else:
            self.lines.append(start + self.comment())
            indentless = not in_list and isinstance(value, list) and self.one_in(3)
            self.block(value, column if indentless else column + step, "")

    def flow(self, value: Tree, column: int, start: str) -> None:
        """Brackets, perhaps over several lines; the last line may take a comment."""
        if isinstance(value, str):
            self.lines.append(start + self.scalar(value, flow=True))
            return
        opening, closing = ("{", "}") if isinstance(value, dict) else ("[", "]")
        self.lines.append(start + opening)
        items = list(value.items()) if isinstance(value, dict) else [("", item) for item in value]
        for number, (key, item) in enumerate(items):
            self.break_line(column)
            line = self.lines.pop()
            self.flow(item, column, line + (self.scalar(key, flow=True, key=True) + ": " if key else ""))
            self.lines[-1] += ("," if number < len(items) - 1 or self.one_in(4) else "") + " " * self.one_in(2)
        self.break_line(column)
        self.lines[-1] += closing

    def break_line(self, column: int) -> None:
        if self.one_in(4):
            self.lines[-1] += self.comment()
            self.noise(column + 4)
            self.lines.append(" " * column)

    def scalar(self, value: str, *, column: int = 1, flow: bool = False, key: bool = False) -> str:
        style = self.draw(st.sampled_from(["plain", "'", '"', "|", ">", "many"]))
        plain = value.strip() == value and value[:1] not in tuple("#-?!*&|>'\"%@`[]{},") and value.isprintable()
        plain = plain and bool(value) and ": " not in value and " #" not in value and not value.endswith(":")
        plain = plain and not (flow and any(letter in value for letter in "[]{},:?")) and not (key and ":" in value)
        if style in ("|", ">") and not key and not flow and value[:1] not in (" ", "\n", ""):
            body = value.rstrip("\n")
            chomp = {"": "-", "\n": ""}.get(value[len(body) :], "+")
            separator = "\n\n" if style == ">" else "\n"
            lines = body.replace("\n", separator).split("\n")
            return (
                style
                + chomp
                + self.comment()
                + "".join("\n" + (" " * column + line if line else "") for line in lines)
            )
        if style == "many" and plain and not key and not flow and " " in value:
            first, _, rest = value.partition(" ")
            return f"{first}\n{' ' * (column + 2)}{rest}" if not rest.startswith("#") else value
        if plain and style not in ("'", '"'):
            return value
        if style == "'" and "\n" not in value:
            return "'" + value.replace("'", "''") + "'"
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
