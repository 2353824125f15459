"""The control plane as a service: the engine behind HTTP."""
