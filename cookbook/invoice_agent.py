"""An invoice agent under policy: the main job, on real text invoices, with a real model on this machine.

You get five invoices read, recorded, summarised and confirmed by mail; the mail that one of them wants sent to an
outsider stopped; the CRM's answer without personal data; addresses masked in streams, however they are cut up.

It works under the `policy.yaml` of the working directory. Without one it takes `data/policy.yaml` to a fresh directory.
"""

import csv
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tappass import Agent, PolicyBlockError, current_session, governed, tappass_session, tool

DATA = Path(__file__).resolve().parent / "data"
LEDGER, OUTBOX = Path("ledger.csv"), Path("outbox.jsonl")
MODEL = "smollm2-135m-instruct"
ADDRESS = re.compile(r"[\w.]+@[\w.-]+\.example")


@tool
def read_invoice(file: str) -> str:
    """Read one invoice."""
    return (DATA / "invoices" / file).read_text(encoding="utf-8")


@tool
def read_aloud(file: str, piece: int = 11) -> Iterator[str]:
    """Read an invoice out, some characters at a time."""
    text = (DATA / "invoices" / file).read_text(encoding="utf-8")
    for start in range(0, len(text), piece):
        yield text[start : start + piece]


@tool
def crm_lookup(customer: str) -> dict[str, str | int]:
    """Look a customer up."""
    record: dict[str, str | int] = json.loads((DATA / "crm.json").read_text(encoding="utf-8"))[customer]
    return record


@tool
def record_total(invoice: str, currency: str, total: float) -> None:
    """Write an invoice's total into the ledger."""
    with LEDGER.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([invoice, currency, f"{total:.2f}"])


@tool
def send_email(to: str, subject: str, body: str) -> None:
    """Send a mail: here into a file, which shows what left and what did not."""
    with OUTBOX.open("a", encoding="utf-8") as file:
        file.write(json.dumps({"to": to, "subject": subject, "body": body}) + "\n")


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    assert match is not None, pattern
    return match[1]


def settle_invoice(file: str) -> None:
    """Take one invoice from its text to its confirmation; do what the invoice says, as agents do."""
    text = read_invoice(file)
    currency, total = found(r"TOTAL ([A-Z]{3})", text), float(found(r"TOTAL [A-Z]{3} +([\d.]+)", text))
    record_total(file, currency, total)
    customer = crm_lookup(found(r"(C-\d{4})", text))
    summary = Agent(model=MODEL).chat(
        f"Say in one short sentence what this invoice is for.\n\n{text}", max_tokens=32, temperature=0
    )
    print(f"  {file}: {currency} {total:.2f} recorded")
    try:
        send_email(
            found(r"Confirmation to: (\S+)", text), f"Confirmed: {file}", f"{summary.content}\n{json.dumps(customer)}"
        )
    except PolicyBlockError as error:
        print(f"    {error}")


def show_masked_record() -> None:
    record = crm_lookup("C-4075")
    for name, value in record.items():
        print(f"  {name}: {value}")
    assert "dana.okafor" not in str(record)
    assert "536-22-8714" not in str(record)


def show_masked_stream() -> None:
    """Read an invoice aloud: no piece holds the whole address, and none shows a part of it."""
    file = "lindqvist-4402.txt"
    written = (DATA / "invoices" / file).read_text(encoding="utf-8")
    address = ADDRESS.findall(written)[-1]
    pieces = list(read_aloud(file))
    heard = "".join(pieces)
    print(f"  written: …{written[written.index('Questions') :].splitlines()[0]}")
    print(f"  heard:   …{heard[heard.index('Questions') :].splitlines()[0]}")
    assert address in written
    assert not any(part in heard for part in (address, "maja.lindqvist", "posten.example"))


def show_masked_answer() -> None:
    """Ask the model for the contact: the schema makes it answer with the address, token by token."""
    text = read_invoice("lindqvist-4402.txt")
    # A choice of one: what the model would answer freely is not for a demonstration to promise.
    answer = {"contact": {"enum": ADDRESS.findall(text)[-1:]}}
    contact = {"type": "object", "properties": answer, "required": ["contact"]}
    schema = {"type": "json_schema", "json_schema": {"name": "contact", "strict": True, "schema": contact}}
    stream = Agent(model=MODEL).stream(
        f"Who answers questions about this invoice?\n\n{text}", response_format=schema, max_tokens=60, temperature=0
    )
    chunks = [chunk.content for chunk in stream]
    print(f"  in {len(chunks)} chunks: {'|'.join(' '.join(chunk.split()) for chunk in chunks if chunk.strip())}")
    assert not any(part in "".join(chunks) for part in ("lindqvist", "posten.example"))


@governed(name="invoice-run", metadata={"month": "2026-10"})
def run() -> str:
    print("Five invoices: read, recorded, summarised by the model, confirmed by mail.")
    for file in sorted(path.name for path in (DATA / "invoices").iterdir()):
        with tappass_session(name=file):
            settle_invoice(file)
    print("\nA customer's record, as the CRM tool returned it to the agent:")
    show_masked_record()
    print("\nAn invoice read aloud by a tool, eleven characters at a time:")
    show_masked_stream()
    print("\nThe same contact from the model, streamed:")
    show_masked_answer()
    session = current_session()
    assert session is not None
    return session.session_id


def main() -> None:
    session_id = run()
    recipients = [json.loads(line)["to"] for line in OUTBOX.read_text(encoding="utf-8").splitlines()]
    print(f"\n{len(recipients)} mails left, to: {', '.join(recipients)}")
    print(f"session {session_id}")
    assert all(recipient.endswith("@acme.example") for recipient in recipients)


if __name__ == "__main__":
    if not Path("policy.yaml").exists():
        os.chdir(tempfile.mkdtemp(prefix="invoice-agent-"))
        shutil.copy(DATA / "policy.yaml", "policy.yaml")
    main()
