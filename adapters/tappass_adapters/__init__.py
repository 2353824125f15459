"""Adapters to frameworks, written on `tappass.ext` and on nothing below it."""
