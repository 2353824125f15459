"""What in the words of a tool's definition speaks against it: what people cannot see, and what instructs the model.

Time is linear in the text. What is found is a reason for a person to look and no proof; nothing found proves nothing.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

# Letters that show nothing: Hangul fillers, Khmer inherent vowels, the Braille blank, Mongolian and other selectors.
_BLANK = frozenset(
    "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0",
)
_JOINERS = "\u200c\u200d"
_EMOJI_STYLE = "\ufe0f"
_SEEN = "\n\r\t"

# Three looks at a sentence: who is told to keep silent, what is told to be forgotten, what is told to be taken along.
_STOPS = str.maketrans(dict.fromkeys("!?;:\r\n", "."))
_GAP = 6

_SECRECY = (
    ({"not", "never", "dont", "cannot", "without", "avoid", "refrain", "mustnt", "shouldnt"},
     {"tell", "telling", "mention", "mentioning", "inform", "informing", "notify", "notifying", "reveal", "revealing",
      "disclose", "disclosing", "alert", "alerting", "warn", "warning", "acknowledge"},
     {"user", "users", "human", "humans", "anyone", "anybody", "them", "him", "her", "this", "that", "it", "operator",
      "person"}),
    ({"keep", "hide", "conceal"}, {"secret", "hidden", "this", "these", "it"}, {"user", "users", "human", "operator"}),
    ({"user", "users", "human"}, {"not", "never"}, {"know", "see", "notice", "aware", "learn", "find"}),
)  # fmt: skip
_FORGET = (
    ({"ignore", "disregard", "forget", "override", "bypass", "discard"},
     {"previous", "prior", "above", "earlier", "preceding", "other", "all", "any", "your", "system"},
     {"instruction", "instructions", "prompt", "prompts", "rules", "guidelines", "directives", "guardrails"}),
)  # fmt: skip
_TAKE = {
    "read", "open", "include", "pass", "send", "attach", "append", "copy", "put", "provide", "upload", "cat", "load",
    "access", "retrieve", "exfiltrate", "forward", "bcc", "supply",
}  # fmt: skip
_ORDER = {"must", "always", "before", "first", "otherwise", "required", "mandatory", "need", "needs", "please"}
# As they are written; folded text keeps these signs.
_PRIVATE = (
    "~/.ssh", "/.ssh/", "id_rsa", "id_ed25519", "~/.aws", ".aws/credentials", "/etc/passwd", "/etc/shadow", "mcp.json",
    "claude_desktop_config", "~/.cursor", "~/.config/", "~/.netrc", "~/.kube", ".git-credentials", "private key",
    "system prompt", "conversation history", "chat history", "previous messages", "environment variables", ".env file",
    "api keys", "credentials file",
)  # fmt: skip
# Marks by which a text pretends to be somebody else's.
_FORGED = (
    *(f"<{slash}{word}>" for slash in ("", "/") for word in
      ("important", "system", "secret", "hidden", "instruction", "instructions", "admin", "critical", "override")),
    *(f"<|{word}|>" for word in ("im_start", "im_end", "system", "user", "assistant", "endoftext")),
    *(f"[{slash}{word}]" for slash in ("", "/") for word in ("inst", "system", "important")),
    "<<sys>>", "###system", "###instruction",
)  # fmt: skip


def invisible(text: str) -> str:
    """Return the name of the first character that shows nothing or turns the text around, "" if there is none.

    Emoji are left alone, and the joiners between letters of scripts that are written with them.
    """
    if text.isascii() and text.isprintable():
        return ""
    for at, letter in enumerate(text):
        if letter in _SEEN or (letter.isprintable() and letter not in _BLANK and not _selects(letter)):
            continue
        if letter == "\u00a0" or unicodedata.category(letter) == "Zs" or _belongs(text, at):
            continue
        return unicodedata.name(letter, f"U+{ord(letter):04X}")
    return ""


def _selects(letter: str) -> bool:
    return "\ufe00" <= letter <= "\ufe0f" or "\U000e0100" <= letter <= "\U000e01ef"


def _belongs(text: str, at: int) -> bool:
    """Tell whether a joiner or a style selector stands where scripts and emoji need it."""
    before, after = text[at - 1 : at], text[at + 1 : at + 2]
    if text[at] == _EMOJI_STYLE:
        return bool(before) and (unicodedata.category(before) in ("So", "Sm", "Po", "Nd") or before in "\u203c\u2049")
    if text[at] not in _JOINERS or not before or not after:
        return False
    if text[at] == "\u200d" and unicodedata.category(after) in ("So", "Sm"):
        return before == _EMOJI_STYLE or unicodedata.category(before) in ("So", "Sk")
    return all("\u0600" <= letter <= "\u0dff" for letter in (before, after))


def instructing(text: str) -> str:
    """Return what in a text reads like instructions to the model, "" if nothing does."""
    folded = unicodedata.normalize("NFKC", text).casefold().replace("\u2019", "'")
    closed_up = "".join(folded.split())
    if any(mark in closed_up for mark in _FORGED):
        return "marks that pretend to be somebody else's words"
    for sentence in folded.translate(_STOPS).split("."):
        words = _words(sentence)
        if any(_follow(words, groups) for groups in _SECRECY):
            return "words that ask for silence towards the user"
        if any(_follow(words, groups) for groups in _FORGET):
            return "words that ask to forget instructions"
    # A path holds what ends a sentence, so the whole text is looked at.
    if any(name in folded for name in _PRIVATE):
        words = _words(folded)
        if not _TAKE.isdisjoint(words) and not _ORDER.isdisjoint(words):
            return "words that ask for private files or messages"
    return ""


def _words(text: str) -> list[str]:
    """Return the words of a text; no regular expression ever meets what strangers wrote."""
    plain = text.replace("'", "")
    return "".join([letter if letter.isalnum() else " " for letter in plain]).split()


def _follow(words: Sequence[str], groups: tuple[set[str], ...]) -> bool:
    """Tell whether words of the groups follow one another, few others between them."""
    reached = [-1] * len(groups)
    for at, word in enumerate(words):
        for stage in range(len(groups) - 1, -1, -1):
            if word in groups[stage] and (stage == 0 or (reached[stage - 1] >= 0 and at - reached[stage - 1] <= _GAP)):
                reached[stage] = at
        if reached[-1] >= 0:
            return True
    return False


def flaw(definition: Any) -> str:
    """Return what in the words of a definition, in JSON types, speaks against it; "" if nothing does."""
    for text in _texts(definition):
        if found := invisible(text):
            return f"holds a character that cannot be seen ({found})"
    for text in _texts(definition):
        if found := instructing(text):
            return f"holds {found}"
    return ""


def _texts(value: Any) -> Iterator[str]:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            stack += item.values()
            stack += item.keys()
        elif isinstance(item, list | tuple):
            stack += item
