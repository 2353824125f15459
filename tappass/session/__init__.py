"""Layer 2: where am I? The active session, and the process's registry of sessions and planes."""
