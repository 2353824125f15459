"""Govern a function: it runs only where policy says yes, and every call is on record.

You get a refusal that names its rule, and the log's own account of both calls. In your own program leave out
`memory_plane`, and put the rules into `policy.yaml` beside it.
"""

from tappass import PolicyBlockError, tappass_session, tool
from tappass.testing import memory_plane

POLICY = """
version: 1
rules:
  - id: mail-stays-inside
    tool: send_email
    when: '!args.to.endsWith("@acme.com")'
    effect: block
    classification: CONFIDENTIAL
"""

outbox: list[str] = []


@tool
def send_email(to: str, body: str, subject: str = "(none)") -> str:
    """Send a mail."""
    outbox.append(to)
    return f"sent to {to}"


def main() -> None:
    with memory_plane(POLICY) as plane:
        with tappass_session(name="first-steps") as session:
            print(send_email("billing@acme.com", "The invoice is paid."))
            try:
                send_email("eve@evil.example", "The invoice is paid.")
            except PolicyBlockError as error:
                print(error)
                refusal = error

        assert refusal.blocked_by == "mail-stays-inside"
        assert refusal.classification == "CONFIDENTIAL"
        assert outbox == ["billing@acme.com"], "the blocked call never ran"

        events = plane.events(session_id=session.session_id)
        for event in events:
            print(f"{event.seq:3} {event.type:15} {event.name:12} {event.outcome or event.status}")
        # The call that ran has an ending. The one that was blocked has none: nothing ran.
        assert [event.type for event in events] == [
            "session.opened",
            "call.decided",
            "call.ended",
            "call.decided",
            "session.closed",
        ]


if __name__ == "__main__":
    main()
