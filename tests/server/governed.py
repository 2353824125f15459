"""A server with rules, a scripted upstream behind it and people beside it; asked by raw HTTP only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tappass.engine.breakglass import BreakGlasses, BreakGlassRow
from tappass.engine.leaves import Leaves
from tappass.engine.pins import Pins
from tappass.engine.trust import Agents
from tappass.server.serve import Serving
from tappass.wire.ids import SYSTEM_CLOCK
from tests.fake_model import FakeModel
from tests.people import ADA, BOB
from tests.serving import Served, serve

POLICY = """
version: 1
rules:
  - {id: nothing-dropped, tool: "drop_*", effect: block, classification: CONFIDENTIAL}
  - {id: big-payments, tool: pay, when: args.amount > 100, effect: require_approval}
  - {id: deletes-need-trust, tool: "delete_*", effect: require_tier, tier: trusted}
  - {id: mask-results, tool: "crm_*", effect: redact, fields: [result], kinds: [EMAIL]}
  - {id: code-is-reviewed, tool: CODE_EXEC, effect: block}
  - {id: no-zeppelin, llm: "*", when: 'args.prompt.contains("zeppelin")', effect: block, classification: SECRET}
  - {id: mask-answers, llm: "gpt-*", effect: redact, fields: [result], kinds: [EMAIL]}
  - {id: asked-first, llm: "ask-*", effect: require_approval}
  - {id: trusted-only, llm: "trusted-*", effect: require_tier, tier: trusted}
  - {id: no-glass, llm: "glass-*", effect: require_tier, tier: privileged}
detect:
  secrets: {prompt: block, result: allow}
  pii: {prompt: redact}
"""
SETTINGS = """
[[upstream]]
match = "*"
base_url = "{base_url}"
"""
STRICT = f'{SETTINGS}\n[tools]\nintegrity = "first-use"\n'
_PERSON = "INSERT INTO person (person_id, org_id, name, created_at) VALUES (?, ?, ?, '')"
MAIL = "jane.doe@acme.example"


class Governed:
    """What a test asks of one server, and what people do beside it."""

    def __init__(self, served: Served, model: FakeModel, database: str) -> None:
        self.served, self.model = served, model
        self._agents = 0
        # The same database from another process: what people do there reaches the server as it would from anywhere.
        state = served.directory / ".tappass"
        self.house = Serving(database or f"sqlite:///{state / 'tappass.db'}", state).house()
        self.plane = self.house.plane()
        store, leaves = self.plane.engine.store, Leaves(SYSTEM_CLOCK)
        self.agents = Agents(store, leaves, SYSTEM_CLOCK)
        self.pins = Pins(store, leaves, SYSTEM_CLOCK)
        self.glasses = BreakGlasses(store, leaves, SYSTEM_CLOCK)
        for person in (ADA, BOB):
            store.run(lambda tx, who=person: tx.execute(_PERSON, (who.person_id, leaves.org_id, who.name)))

    def client(self, key: str = "") -> httpx.Client:
        """Return a client with a key of its own agent, or with the one given."""
        headers = {"authorization": f"Bearer {key or self.register()['api_key']}"}
        return httpx.Client(base_url=self.served.url, headers=headers, timeout=30, trust_env=False)

    def register(self, name: str = "") -> Any:
        """Register an agent; return its credential."""
        self._agents += 1
        with self.client(self.served.admin_key) as admin:
            answer = admin.post("/agents/register", json={"agent_id": name or f"agent-{self._agents}"})
        assert answer.status_code in (200, 201), answer.text
        return answer.json()

    def approve(self, approval_id: str) -> None:
        """Have a person agree, in a process that is not the server's."""
        self.plane.engine.voting.approve(approval_id, ADA, "fine")

    def deny(self, approval_id: str) -> None:
        """Have a person refuse."""
        self.plane.engine.voting.deny(approval_id, ADA, "no")

    def break_glass(self, level: str, scope: str) -> BreakGlassRow:
        """Have two people open an override."""
        asked = self.glasses.activate(ADA, level, scope, "a test", 600)
        return self.glasses.confirm(BOB, asked.break_glass_id)

    def events(self, **only: str) -> list[dict[str, Any]]:
        """Return the log's events, as the audit API gives them to an admin."""
        with self.client(self.served.admin_key) as admin:
            found: list[dict[str, Any]] = []
            after: int | None = -1
            while after is not None:
                page = admin.get("/v1/audit/events", params={**only, "after": after, "limit": 1000}).json()
                found += page["events"]
                after = page["next"]
        return found


@contextmanager
def governed(directory: Path, policy: str = POLICY, settings: str = SETTINGS, database: str = "") -> Iterator[Governed]:
    """Yield a server under that policy; `database` is a url, else one of its own on SQLite."""
    with FakeModel() as model:
        (directory / "policy.yaml").write_text(policy)
        (directory / "tappass.toml").write_text(settings.replace("{base_url}", model.base_url))
        with serve(directory, database=database or None) as served:
            subject = Governed(served, model, database)
            try:
                yield subject
            finally:
                subject.house.stop()
