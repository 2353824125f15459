"""Which files are read, that a change to any of them is seen, and that none is passed over in silence."""

from __future__ import annotations

import os
import re
import time

import pytest

from tappass.engine.policy import files
from tappass.engine.policy.files import PolicySources, find_files
from tappass.engine.policy.policy import Policy
from tappass.engine.policy.templates import POLICY_YAML, SETTINGS_TOML
from tappass.engine.settings import Settings
from tappass.errors import TapPassConfigError

KINDS = frozenset({"EMAIL", "US_SSN"})


def write(directory, name, text, age_s=10):
    path = directory / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    moment = time.time() - age_s
    os.utime(path, (moment, moment))
    return path


def rule(name):
    return f"version: 1\nrules: [{{id: {name}, effect: block}}]\n"


def test_policy_yaml_and_all_of_policies_are_one_policy(tmp_path):
    for name in ("policy", "policies/b", "policies/a"):
        write(tmp_path, f"{name}.yaml", rule(name.removeprefix("policies/")))
    for name in ("policies/a.test.yaml", "policies/notes.txt", "policies/.a.yaml"):
        write(tmp_path, name, "not: a policy")
    sources = find_files(tmp_path)
    assert [file.name for file in sources.policies] == ["policy.yaml", "policies/a.yaml", "policies/b.yaml"]
    rules = sources.load_policy(KINDS).document.rules
    assert [(r.id, r.source) for r in rules] == [
        ("a", "policies/a.yaml:2"),
        ("b", "policies/b.yaml:2"),
        ("policy", "policy.yaml:2"),
    ]


def test_without_files_there_are_defaults(tmp_path):
    sources = find_files(tmp_path)
    assert sources == PolicySources.empty()
    assert sources.load_policy(KINDS).pipeline_uuid == Policy.built_in().pipeline_uuid
    assert sources.load_settings() == Settings()


@pytest.mark.parametrize("name", ["policy.yaml", "policies/a.yaml", "tappass.toml"])
def test_any_change_changes_the_digest(tmp_path, name):
    digests = {find_files(tmp_path).digest}
    write(tmp_path, name, "a: 1")
    digests.add(find_files(tmp_path).digest)
    write(tmp_path, name, "a: 2", age_s=9)
    digests.add(find_files(tmp_path).digest)
    (tmp_path / name).unlink()
    assert len(digests) == 3
    assert find_files(tmp_path).digest in digests


def test_a_change_that_keeps_size_and_time_is_seen(tmp_path):
    path = write(tmp_path, "policy.yaml", rule("a"))
    before = find_files(tmp_path)
    stamp = path.stat()
    path.write_text(rule("b"))
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert find_files(tmp_path).digest != before.digest


def test_files_that_did_not_change_are_not_read_again(tmp_path, monkeypatch):
    write(tmp_path, "policy.yaml", rule("a"))
    monkeypatch.setattr(files, "_SETTLED_NS", -(10**12))
    first = find_files(tmp_path)
    monkeypatch.setattr(files, "_read", lambda path, name: pytest.fail("read again"))
    assert find_files(tmp_path) is first


@pytest.mark.parametrize("name", ["policy.yml", "policies/more.yml"])
def test_a_file_with_another_ending_is_not_passed_over(tmp_path, name):
    write(tmp_path, name, rule("a"))
    with pytest.raises(TapPassConfigError, match=f"{name}: policy files end in `.yaml`; rename it"):
        find_files(tmp_path).load_policy(KINDS)


def test_a_file_that_cannot_be_read_is_not_passed_over(tmp_path):
    (tmp_path / "policy.yaml").mkdir()
    (tmp_path / "tappass.toml").mkdir()
    sources = find_files(tmp_path)
    assert sources.digest != PolicySources.empty().digest
    with pytest.raises(TapPassConfigError, match=r"policy\.yaml: Is a directory"):
        sources.load_policy(KINDS)
    with pytest.raises(TapPassConfigError, match=r"tappass\.toml: Is a directory"):
        sources.load_settings()


def test_sources_given_by_code_count_lines_from_the_first_that_is_not_empty():
    text = "\n\nversion: 1\nrules: [{id: a, effect: block}]"
    assert PolicySources.of(text).load_policy(KINDS).document.rules[0].source == "policy.yaml:2"
    assert PolicySources.of("  \n", "\n") == PolicySources.empty()


def test_named_files_are_read(tmp_path):
    policy = write(tmp_path, "other.yaml", rule("a"))
    settings = write(tmp_path, "s.toml", "[agent]\nname = 'bot'\n")
    sources = PolicySources.read([policy], settings)
    assert sources.load_policy(KINDS).document.rules[0].source == f"{policy}:2"
    assert sources.load_settings().agent.name == "bot"


def test_what_init_writes_changes_nothing():
    sources = PolicySources.of(POLICY_YAML, SETTINGS_TOML)
    assert sources.load_policy(KINDS).pipeline_uuid == Policy.built_in().pipeline_uuid
    assert sources.load_settings() == Settings()


def test_what_is_commented_out_in_the_templates_is_sound_too():
    text = re.sub(
        r"^# (?=rules:|detect:| +(?!tappass)\S)", "", POLICY_YAML.replace("rules: []\n", ""), flags=re.MULTILINE
    )
    document = PolicySources.of(text).load_policy(KINDS).document
    assert [r.id for r in document.rules] == ["mail-stays-inside", "mask-customers"]
    assert {setting.id: setting.action for setting in document.detect}["detect.injection.result"] == "flag"
    text = re.sub(r'^# (?=\[|[\w"-]+ = )', "", SETTINGS_TOML, flags=re.MULTILINE)
    settings = PolicySources.of(settings=text).load_settings()
    assert settings.upstreams[0].key_env == "OPENAI_API_KEY"
    assert settings.prices["gpt-4o-mini"].output == "0.6"
    assert settings.audit == Settings().audit, "what is commented out shows the defaults"
    assert settings.limits == Settings().limits
    assert settings.server == Settings().server
