"""Policy: rules in YAML with conditions in CEL, read strictly and evaluated fail-closed."""
