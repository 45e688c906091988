"""Adapters made elsewhere: found, verified before a row is predicted, measured, ranked."""
