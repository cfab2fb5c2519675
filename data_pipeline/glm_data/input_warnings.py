"""What a build did not take for text, or took otherwise than its user may expect: counted, with examples.

Examples are named as `InputFile.name` is: the same wherever the input lies.
"""

from collections.abc import Iterator, Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict

EXAMPLES = 3

Kind = Literal["hidden", "format", "special", "again", "missing", "unreadable", "empty", "unseparated", "nul"]
# What a console says of each kind. Those of the first group were passed over and are no reason to worry.
_PASSED_OVER: dict[Kind, str] = {
    "hidden": "hidden",
    "format": "of other formats",
    "special": "neither file nor folder",
    "again": "reached a second time through a link",
}
_WARNINGS: dict[Kind, str] = {
    "missing": "links that lead nowhere, left out",
    "unreadable": "files or folders that may not be read, left out",
    "empty": "files without any record",
    "unseparated": "text files in which the separator never occurs, each taken as one document",
    "nul": "files with NUL characters (are they text in UTF-8?)",
}


class Remark(BaseModel):
    """How many files or folders there were of one kind, and the names of the first few."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    count: int
    examples: list[str]

    def __str__(self) -> str:
        return ", ".join(self.examples) + (" …" if self.count > len(self.examples) else "")


class Remarks:
    """Remarks that are being collected."""

    def __init__(self, *earlier: Mapping[str, Remark]):
        self.by_kind: dict[str, Remark] = {}
        for remarks in earlier:
            self.by_kind |= remarks

    def add(self, kind: Kind, name: str) -> None:
        """Count something that is called `name`."""
        before = self.by_kind.get(kind, Remark(count=0, examples=[]))
        examples = [*before.examples, name] if before.count < EXAMPLES else before.examples
        self.by_kind[kind] = Remark(count=before.count + 1, examples=examples)


def passed_over(remarks: Mapping[str, Remark]) -> str:
    """One phrase: "12 hidden (.git …), 30 of other formats (notes.md …)". Empty if nothing was."""
    known = ((what, remarks[kind]) for kind, what in _PASSED_OVER.items() if kind in remarks)
    return ", ".join(f"{remark.count:,} {what} ({remark})" for what, remark in known)


def warnings(remarks: Mapping[str, Remark]) -> Iterator[str]:
    """A line for each kind that a user should look at."""
    for kind, what in _WARNINGS.items():
        if kind in remarks:
            yield f"{what}: {remarks[kind].count:,} ({remarks[kind]})"
