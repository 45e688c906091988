"""Who answers: predictors behind one interface, the row cache, shared-image generation, prices and budgets.

Importing this package costs nothing: torch, transformers and the hosted clients are imported where they are used.
"""
