"""Typed settings, one module per concern; pydantic only, so that loading a task costs nothing."""
