"""Checks of formatted rows, one module for each kind of evidence. None of them uses the code that made the labels."""
