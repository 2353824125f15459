"""FastAPI, Starlette and any other ASGI application: a session for each request, decisions for its routes."""

from __future__ import annotations

from tappass_adapters.fastapi.actions import governed_action, governed_endpoint
from tappass_adapters.fastapi.middleware import TapPassMiddleware
from tappass_adapters.fastapi.openapi import document_actions

__all__ = ["TapPassMiddleware", "document_actions", "governed_action", "governed_endpoint"]
