"""Settings: typed, with defaults; what is wrong is named by its key and its line."""

from __future__ import annotations

import pytest

from tappass.engine.policy.files import PolicySources
from tappass.engine.settings import Settings, Upstream, read_settings
from tappass.errors import TapPassConfigError

WHOLE = """
url = "embedded:"
[audit]
synchronous = "full"
content = "none"
witness = "/mnt/witness/log"
checkpoint_every_s = 5
[limits]
argument_bytes = 1000
content_bytes = 2000
[policy]
reload = "auto"
[agent]
name = "bookkeeper"
[server]
url = "https://tappass.example"
[[upstream]]
match = "gpt-*"
base_url = "https://api.example/v1"
key_env = "OPENAI_API_KEY"
timeout_s = 30
[[upstream]]
match = "*"
base_url = "local:"
[prices]
"gpt-4o" = {input = 2.5, output = "10.00"}
"gpt-*" = {input = 0, output = 1}
"""


def settings(text: str) -> Settings:
    return PolicySources.of(settings=text).load_settings()


def test_every_setting_is_read():
    read = settings(WHOLE)
    assert (read.url, read.agent.name, read.server.url) == ("embedded:", "bookkeeper", "https://tappass.example")
    assert (read.audit.synchronous, read.audit.content, read.audit.checkpoint_every_s) == ("full", "none", 5)
    assert (read.audit.witness, read.policy.reload) == ("/mnt/witness/log", "auto")
    assert (read.limits.argument_bytes, read.limits.content_bytes) == (1000, 2000)
    assert read.upstreams[0] == Upstream(
        match="gpt-*", base_url="https://api.example/v1", key_env="OPENAI_API_KEY", timeout_s=30
    )


def test_defaults_are_the_safe_ones():
    read = settings("")
    assert (read.audit.content, read.audit.synchronous, read.policy.reload) == ("redacted", "normal", "accept")
    assert (read.url, read.agent.name, read.upstreams) == ("", "", ())
    assert read.server.url == "http://127.0.0.1:9620"


def test_the_first_upstream_that_matches_is_asked():
    read = settings(WHOLE)
    assert read.upstream_for("gpt-4o").base_url == "https://api.example/v1"
    assert read.upstream_for("claude").base_url == "local:"
    assert settings("").upstream_for("gpt-4o") is None


def test_prices_are_exact_decimals_and_the_exact_name_goes_first():
    read = settings(WHOLE)
    assert (read.price_for("gpt-4o").input, read.price_for("gpt-4o").output) == ("2.5", "10")
    assert read.price_for("gpt-5").output == "1"
    assert read.price_for("claude") is None


def test_settings_come_back_from_their_bundle_and_equal_ones_have_equal_bundles():
    read = settings(WHOLE)
    assert Settings.from_bundle(read.bundle) == read
    assert settings(WHOLE.replace("timeout_s = 30", "timeout_s = 30.0 # seconds")).bundle == read.bundle
    assert settings(WHOLE.replace("30", "31")).bundle != read.bundle


@pytest.mark.parametrize("body", [b"", b"[]", b'{"audit": {"new": 1}}'])
def test_a_bundle_of_another_version_is_refused(body):
    with pytest.raises(TapPassConfigError, match="policy accept"):
        Settings.from_bundle(body)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[audit]\ncontnt = "x"', "tappass.toml:2: unknown key `audit.contnt`; did you mean `content`?"),
        ('[audit]\ncontent = "all"', "tappass.toml:2: `audit.content` must be one of `full`, `none`, `redacted`"),
        ("[audit]\ncheckpoint_every_s = 0", "tappass.toml:2: `audit.checkpoint_every_s`: expected `int` >= 1"),
        ("[adit]\n", "tappass.toml:1: unknown key `adit`; did you mean `audit`?"),
        ('[policy]\nreload = "never"', "tappass.toml:2: `policy.reload` must be one of `accept`, `auto`"),
        ("url = 3", "tappass.toml:1: `url`: expected `str`, got `int`"),
        ("audit = 3", "tappass.toml:1: `audit`: expected `object`, got `int`"),
        ("x = ", "tappass.toml:1: not valid TOML: "),
        ("[a]\n[a]", "tappass.toml:2:3: not valid TOML: "),
        ('[[upstream]]\nmatch = "a"', "tappass.toml:1: `upstream[0]` needs `base_url`"),
        ('[[upstream]]\nmatch = "a"\nbase_url = "ftp://x"', "tappass.toml:3: `upstream.base_url` must be an http or"),
        ('[[upstream]]\nmatch = "a"\nbase_url = "http://u:p@x"', "tappass.toml:3: `upstream.base_url` must be an http"),
        (
            '[[upstream]]\nmatch = "a"\nbase_url = "http://x"\nkey = "s"',
            "tappass.toml:4: unknown key `upstream[0].key`",
        ),
        ('[[upstream]]\nmatch = "a"\nbase_url = "http://x"\nkey_env = "sk-1"', "tappass.toml:4: `upstream[0].key_env`"),
        (
            '[[upstream]]\nmatch = ""\nbase_url = "http://x"',
            "tappass.toml:2: `upstream[0].match`: expected `str` of len",
        ),
        ('[server]\nurl = "plain"', "tappass.toml:2: `server.url` must be an http or https address"),
        ("[limits]\nargument_bytes = true", "tappass.toml:2: `limits.argument_bytes`: expected `int`, got `bool`"),
        ('[prices]\n"gpt-*" = 3', "tappass.toml:2: `prices.gpt-*` must be {input"),
        ("[prices]\nm = {input = 1}", "tappass.toml:2: `prices.m` must be {input"),
        ("[prices]\nm = {input = -1, output = 1}", "tappass.toml:2: `prices.m.input` must be a number, 0 or more"),
        ("[prices]\nm = {input = nan, output = 1}", "tappass.toml:2: `prices.m.input` must be a number, 0 or more"),
        ('[prices]\nm = {input = "x", output = true}', "tappass.toml:2: `prices.m.output` must be a number"),
        ("prices = 3", "tappass.toml:1: `prices`: expected `object`, got `int`"),
    ],
)
def test_what_is_wrong_is_named_by_key_and_line(text, expected):
    with pytest.raises(TapPassConfigError) as caught:
        settings(text)
    assert expected in str(caught.value)


def test_what_is_no_text_is_refused():
    with pytest.raises(TapPassConfigError, match="not UTF-8"):
        read_settings("tappass.toml", b"\xff")


def test_a_message_does_not_repeat_a_value():
    with pytest.raises(TapPassConfigError) as caught:
        settings('[[upstream]]\nmatch = "a"\nbase_url = "http://x"\nkey_env = "sk-a-secret"\n[audit]\ncontent = "sk-b"')
    assert "sk-" not in str(caught.value)
