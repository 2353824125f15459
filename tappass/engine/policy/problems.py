"""What is wrong in a file, and where: all of it at once, as one error."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from tappass.errors import TapPassConfigError


class Problem(msgspec.Struct, frozen=True, order=True):
    """One thing that is wrong; line and column count from 1, 0 where there is none to name."""

    file: str
    line: int
    column: int
    text: str

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part)
        return f"{place}: {self.text}"


def failed(problems: Iterable[Problem], *, what: str = "the policy cannot be used") -> TapPassConfigError:
    """Return the error that lists problems, sorted by place, one a line; `problems_of` gives them back."""
    found = sorted(set(problems))
    error = TapPassConfigError("\n  ".join([f"{what}:", *map(str, found)]))
    vars(error)["problems"] = tuple(found)
    return error


def problems_of(error: BaseException) -> tuple[Problem, ...]:
    """Return what an error lists, () if it lists nothing."""
    found: tuple[Problem, ...] = vars(error).get("problems", ())
    return found


def choices(names: Iterable[str]) -> str:
    """Return names as a message shows them."""
    return ", ".join(f"`{name}`" for name in names)


def meant(wrong: str, names: Iterable[str]) -> str:
    """Return what somebody who wrote `wrong` may write instead: the nearest name, or all of them."""
    import difflib

    known = list(names)
    near = difflib.get_close_matches(wrong[:100], known, n=1)
    return f"did you mean `{near[0]}`?" if near else f"known: {choices(known)}"
