"""Test your own policy with pytest: the real engine, in memory, one plane for each test.

You get two fixtures as soon as tappass is installed: `tappass_plane` decides every call of the test, `audit_events`
reads its log. Put such tests beside your tools; run this file with pytest, or as it is.
"""

import subprocess
import sys

import pytest

from tappass import PolicyBlockError, TapPassConfigError, tool
from tappass.testing import MemoryPlane

POLICY = """
version: 1
rules:
  - id: small-payments-only
    tool: pay
    when: args.amount > 1000
    effect: block
"""

paid: list[float] = []


@tool
def pay(to: str, amount: float) -> str:
    """Pay somebody."""
    paid.append(amount)
    return f"{amount} paid to {to}"


@pytest.fixture(autouse=True)
def _under_our_policy(tappass_plane: MemoryPlane) -> None:
    paid.clear()
    tappass_plane.policy(POLICY)


@pytest.mark.parametrize("amount", [1, 999.99, 1000])
def test_small_payments_pass(amount: float) -> None:
    pay("Acme", amount)
    assert paid == [amount]


@pytest.mark.parametrize("amount", [1000.01, 10**12])
def test_a_large_payment_never_runs(amount: float, tappass_plane: MemoryPlane) -> None:
    with pytest.raises(PolicyBlockError) as caught:
        pay("Acme", amount)
    assert caught.value.blocked_by == "small-payments-only"
    assert paid == []
    (event,) = tappass_plane.events(type="call.decided")
    assert (event.name, event.outcome, event.rules) == ("pay", "block", ("small-payments-only",))


def test_what_no_rule_can_compare_is_refused() -> None:
    with pytest.raises(TapPassConfigError, match="amount"):
        pay("Acme", float("nan"))
    assert paid == []


if __name__ == "__main__":
    pytest_here = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    sys.exit(subprocess.run(pytest_here, check=False).returncode)
