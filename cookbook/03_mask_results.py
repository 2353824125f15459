"""Mask personal data in what tools return: in text, inside objects, and across the pieces of a stream.

You get results of the same type with the spans replaced, before your program or a model sees them. `raise_on_redaction`
turns that into an error for callers who must not go on with half a value.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from tappass import RedactionApplied, tappass_session, tool
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - id: mask-results
    tool: crm_*
    effect: redact
    fields: [result]
    kinds: [EMAIL]
"""


@dataclass(frozen=True)
class Customer:
    """What the CRM knows."""

    name: str
    contact: str


@tool
def crm_find(name: str) -> Customer:
    """Look a customer up."""
    return Customer(name=name, contact=f"{name.lower()}@example.com")


@tool
def crm_notes(name: str) -> Iterator[str]:
    """Read a customer's notes, piece by piece."""
    yield "Prefers mail, to "
    yield "ann@exam"
    yield "ple.com, before noon."


def main() -> None:
    with memory_plane(POLICY) as plane:
        with tappass_session(name="masking"):
            found = crm_find("Ann")
            print(found)
            assert found == Customer(name="Ann", contact="[EMAIL]")

            # The address came in two pieces; neither of them was shown.
            pieces = list(crm_notes("Ann"))
            print(pieces)
            assert "".join(pieces) == "Prefers mail, to [EMAIL], before noon."

        with tappass_session(name="strict", raise_on_redaction=True):
            try:
                crm_find("Ann")
            except RedactionApplied as error:
                print(error)
                masked, redactions = error.redacted_content, error.redactions
        assert masked.contact == "[EMAIL]"
        assert [(made.where, made.kind) for made in redactions] == [("/contact", "EMAIL")]

        # The log says what was found and how often, never the address.
        assert [event.findings for event in plane.events(type="call.ended")] == [("EMAIL:1",)] * 3


if __name__ == "__main__":
    main()
