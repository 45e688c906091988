"""Figures: each module turns plain numbers into drawings with the same numbers as a table."""
