"""Layer 2: who answers? Policy, detection, the audit log and the gateway, as use cases."""
