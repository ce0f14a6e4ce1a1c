"""Processes that step environments; no torch in them."""
