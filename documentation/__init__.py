"""Builds the documentation site from `docs/`, and the reference pages from the code."""
