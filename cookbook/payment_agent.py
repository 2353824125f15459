"""Pay what the ledger holds: small amounts at once, large ones after people have agreed, each once.

You get a payment that outlives the process which asked for it:

    python payment_agent.py             pays; leaves the tokens of what is held in held.json; ends
    python payment_agent.py resume      another process: runs what people have agreed to
    python payment_agent.py urgent 90   one payment that cannot wait, under break-glass if one is in force
"""

import csv
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

from tappass import ApprovalRequired, GovernanceDecision, resume, tappass_session, tool

DATA = Path(__file__).resolve().parent / "data"
LEDGER, PAYMENTS, HELD = Path("ledger.csv"), Path("payments.csv"), Path("held.json")


@tool
def pay(invoice: str, currency: str, amount: float) -> str:
    """Pay an invoice: here into a file, which shows what was paid, and how often."""
    with PAYMENTS.open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerow([invoice, currency, f"{amount:.2f}"])
    return f"{invoice}: {currency} {amount:.2f} paid"


def pay_all() -> None:
    held: list[list[str]] = []
    for invoice, currency, amount in csv.reader(LEDGER.read_text(encoding="utf-8").splitlines()):
        try:
            with tappass_session(name=f"pay {invoice}", agent="bookkeeper"):
                print(f"  {pay(invoice, currency, float(amount))}")
        except ApprovalRequired as error:
            held.append([error.resume_token, invoice, currency, amount])
            print(f"  {error}")
    HELD.write_text(json.dumps(held), encoding="utf-8")


def resume_held() -> None:
    for token, invoice, currency, amount in json.loads(HELD.read_text(encoding="utf-8")):
        try:
            with resume(token):
                print(f"  {pay(invoice, currency, float(amount))}")
        except GovernanceDecision as error:
            print(f"  {error}")


def pay_urgent(amount: float) -> None:
    try:
        with tappass_session(name="urgent", agent="bookkeeper", respect_breakglass=True) as session:
            print(f"  {pay('emergency-generator', 'EUR', amount)}")
            if session.break_glass is not None:
                print(f"  under break-glass: {session.break_glass.level}")
    except GovernanceDecision as error:
        print(f"  {error}")


def main() -> None:
    if "resume" in sys.argv:
        resume_held()
    elif "urgent" in sys.argv:
        pay_urgent(float(sys.argv[-1]))
    else:
        pay_all()
    print(f"process {os.getpid()} ends")


if __name__ == "__main__":
    if not Path("policy.yaml").exists():
        os.chdir(tempfile.mkdtemp(prefix="payment-agent-"))
        shutil.copy(DATA / "policy.yaml", "policy.yaml")
    if not LEDGER.exists():
        LEDGER.write_text("brightline-20331.txt,GBP,2103.36\nhelios-7741.txt,EUR,4022.20\n", encoding="utf-8")
    main()
