"""Tools that note what they are called with, the policy about them, and what a model asks for."""

from __future__ import annotations

from typing import Any

import openai
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import StructuredTool
from langchain_openai import ChatOpenAI

from tests.adapters.scripted import ScriptedModel

POLICY = """
    version: 1
    rules:
      - {id: inside, tool: send, when: '!args.to.endsWith("@acme.com")', effect: block}
      - {id: ask, tool: pay, effect: require_approval}
      - {id: mask, tool: look, effect: redact, fields: [result, arguments], kinds: [EMAIL]}
"""
PROMPT = ChatPromptTemplate.from_messages([("human", "{input}"), ("placeholder", "{agent_scratchpad}")])
OUT = ("send", {"to": "eve@evil.example"})
IN = ("send", {"to": "ann@acme.com"})
ASK = {"messages": [("user", "do it")]}


def chat(model: ScriptedModel) -> ChatOpenAI:
    client = openai.DefaultAsyncHttpxClient()
    return ChatOpenAI(
        model="scripted-1", base_url=f"{model.url}/v1", api_key="x", max_retries=0, http_async_client=client
    )


class Mail:
    """The tools, and what they were called with."""

    def __init__(self) -> None:
        self.ran: list[Any] = []

    def tools(self) -> list[Any]:
        def send(to: str) -> str:
            """Send a mail."""
            self.ran.append(to)
            return f"sent to {to}"

        def look(text: str) -> str:
            """Look something up."""
            self.ran.append(text)
            return "written by bob@acme.com"

        def pay(amount: int) -> str:
            """Pay."""
            self.ran.append(amount)
            return f"paid {amount}"

        return [StructuredTool.from_function(function) for function in (send, look, pay)]
