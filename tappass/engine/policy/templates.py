"""What `tappass init` writes: a policy and settings that say what is in force without them, commented."""

from __future__ import annotations

POLICY_YAML = """\
# The rules that every tool call and model call is decided by. docs/policy.md explains every word.
# A change is in force for sessions opened after `tappass policy accept`; try it out before:
#   tappass policy check
#   tappass policy try send_email to=someone@example.com
version: 1

# What happens to a call that no rule is about: allow, or block.
default: allow

# May code open sessions in which refusals are recorded and let pass (mode="observe")?
allow_observe: false

# Every rule that matches counts: the most severe effect decides, what is to be redacted adds up.
rules: []
# rules:
#   - id: mail-stays-inside
#     tool: send_email                     # a glob: pay*, crm_?et; or llm: gpt-*
#     when: '!args.to.endsWith("@acme.com")'
#     effect: block                        # allow, block, redact, require_tier, require_approval
#     classification: CONFIDENTIAL
#   - id: mask-customers
#     tool: crm_*
#     effect: redact
#     fields: [result]
#     kinds: [EMAIL, US_SSN]

# What is done about what detectors find: allow, flag (record it), redact or block. What is not said keeps its default:
# secrets are redacted in prompts and results and flagged in arguments, the rest is let pass.
# If results are redacted or blocked by your word, a result that cannot be looked into is withheld.
# detect:
#   secrets: {prompt: block, arguments: block, result: redact}
#   pii: {prompt: allow, arguments: allow, result: redact}
#   injection: {result: flag}
"""

SETTINGS_TOML = """\
# Settings. docs/reference.md explains every key; what is commented out shows the default.
# Like the policy, a change is in force after `tappass policy accept`.

# Where calls are decided if neither code nor TAPPASS_URL says so.
# url = "embedded:"

[audit]
# synchronous = "normal"        # "full": records survive a power failure, at about 100 µs a call
# content = "redacted"          # what is kept beside the log: "none", "redacted" or "full"
# witness = ""                  # a file that gets each checkpoint, held where the writer cannot rewrite it
# checkpoint_every_s = 60

[limits]
# argument_bytes = 4000000      # a call with larger arguments is refused
# content_bytes = 1000000       # larger content is not kept

[policy]
# reload = "accept"             # "auto": a changed file rules at once; for development only

[agent]
# name = ""                     # who acts where code names nobody; "" stands for "default"

[tools]
# integrity = "record"          # a function whose source changed runs, on record; or "first-use", or "approve"
# mcp_integrity = "first-use"   # an MCP server's tool whose definition changed waits for `tappass tools approve`

[server]
# url = "http://127.0.0.1:9620" # what audit_url begins with

# Where models are asked: the first upstream whose glob matches. Keys stay in the environment.
# [[upstream]]
# match = "gpt-*"
# base_url = "https://api.openai.com/v1"
# key_env = "OPENAI_API_KEY"
# timeout_s = 120.0

# USD for a million tokens, by model or glob.
# [prices]
# "gpt-4o-mini" = {input = "0.15", output = "0.60"}
"""
