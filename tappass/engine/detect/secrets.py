"""Secrets that are known by a documented prefix, and the keyword-plus-entropy ones."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from tappass.engine.detect.detector import SECRETS, PatternDetector, Span, follows_word, near, pattern

_RUN = r"[0-9A-Za-z_-]+"


def _token(
    kind: str, head: str, body: str, max_length: int, *, after_word: bool = False, tail: str = _RUN
) -> PatternDetector:
    """Build a detector for tokens with a fixed beginning; `body` is matched from there, at most `max_length` long."""

    def read(view: bytes, at: Any) -> Span | None:
        start = at.start()
        if not after_word and follows_word(view, start):
            return None
        match = pattern(body).match(view, start, start + max_length)
        return None if match is None else (start, match.end(), 100)

    return PatternDetector(
        kind=kind, category=SECRETS, max_length=max_length, anchor=head, head=head, read=read, tail=tail
    )


def _exact(kind: str, head: str, body: str, length: int) -> PatternDetector:
    """Build a detector for tokens of one length that stand alone."""

    def read(view: bytes, at: Any) -> Span | None:
        start = at.start()
        match = pattern(body).match(view, start)
        if match is None or follows_word(view, start) or view[match.end() : match.end() + 1].isalnum():
            return None
        return start, match.end(), 100

    return PatternDetector(kind=kind, category=SECRETS, max_length=length, anchor=head, head=head, read=read, tail=_RUN)


AWS_ACCESS_KEY = _exact("AWS_ACCESS_KEY", "AKIA|ASIA", "(?:AKIA|ASIA)[0-9A-Z]{16}", 20)
GITHUB_TOKEN = _token(
    "GITHUB_TOKEN",
    "gh[pousr]_|github_pat_",
    "(?:gh[pousr]_[0-9A-Za-z]{30}|github_pat_[0-9A-Za-z_]{36})[0-9A-Za-z_]*",
    255,
    after_word=True,
)
SLACK_TOKEN = _token("SLACK_TOKEN", "xox[abeoprs]-|xapp-", "(?:xox[abeoprs]|xapp)-[0-9A-Za-z-]{12,}", 255)
STRIPE_KEY = _token(
    "STRIPE_KEY",
    "[rs]k_(?:live|test)_|whsec_",
    "(?:[rs]k_(?:live|test)|whsec)_[0-9A-Za-z+/=]{16,}",
    255,
    tail="[0-9A-Za-z_+/=]+",
)
GOOGLE_API_KEY = _exact("GOOGLE_API_KEY", "AIza", "AIza[0-9A-Za-z_-]{35}", 39)


def _model_key(view: bytes, at: Any) -> Span | None:
    start = at.start()
    match = pattern(r"sk-[0-9A-Za-z_-]{20,}").match(view, start, start + 300)
    if match is None or follows_word(view, start):
        return None
    # What is said in words (`sk-learn-style-identifier`) has short parts or no digit; keys have neither.
    for part in match.group().split(b"-"):
        if len(part) >= 16 and any(48 <= byte <= 57 for byte in part):
            return start, match.end(), 100
        if len(part) >= 20 and b"_" not in part:
            return start, match.end(), 100
    return None


OPENAI_KEY = PatternDetector(
    kind="OPENAI_KEY", category=SECRETS, max_length=300, anchor="sk-", head="sk-", read=_model_key, tail=_RUN
)

_AWS_WORDS = r"aws|secret|access[ _.-]?key"


def entropy(text: bytes) -> float:
    """Return the entropy of a text in bits a character, by how often each one occurs."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values())


def _aws_secret(view: bytes, run: Any) -> Span | None:
    start, end = run.span()
    if end - start != 40 or view[end : end + 1] == b"=" or not near(view, start, _AWS_WORDS, reach=64):
        return None
    key = run.group()
    # Hex digests reach 4.0 at most; 40 random base64 characters lie above 4.2 in 999 of 1,000 cases.
    mixed = pattern("[a-z]").search(key) and pattern("[A-Z]").search(key) and pattern("[0-9/+]").search(key)
    return (start, end, 90) if mixed and entropy(key) > 4.1 else None


AWS_SECRET_KEY = PatternDetector(
    kind="AWS_SECRET_KEY",
    category=SECRETS,
    max_length=40,
    anchor=rf"(?i)(?:{_AWS_WORDS})",
    head=r"[0-9A-Za-z/+]{40,}",
    read=_aws_secret,
    tail=r"[0-9A-Za-z/+]+",
)


def _connection(view: bytes, at: Any) -> Span | None:
    sign = at.start()
    scheme = pattern(r"[A-Za-z][0-9A-Za-z+.-]*\z").search(view[max(0, sign - 24) : sign])
    rest = pattern(r"""[^\s:/@"'<>`]*:[^\s/"'<>`]{1,128}@[^\s"'<>`]+""").match(view, sign + 3, sign + 400)
    if scheme is None or rest is None:
        return None
    return sign - (scheme.end() - scheme.start()), rest.end(), 100


CONNECTION_STRING = PatternDetector(
    kind="CONNECTION_STRING",
    category=SECRETS,
    max_length=424,
    anchor="://",
    head="://",
    read=_connection,
    tail=r"""[A-Za-z][0-9A-Za-z+.-]*(?::|:/|://[^\s"'<>`]*)?""",
)

ALL = (
    AWS_ACCESS_KEY,
    AWS_SECRET_KEY,
    GITHUB_TOKEN,
    OPENAI_KEY,
    SLACK_TOKEN,
    STRIPE_KEY,
    GOOGLE_API_KEY,
    CONNECTION_STRING,
)
