"""Layer 3: whom do I ask? The embedded plane, and later the remote one."""
