"""Layers, torsos, policies and critics."""
