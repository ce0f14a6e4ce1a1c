"""Agents and checkpoints in files, without pickle."""
