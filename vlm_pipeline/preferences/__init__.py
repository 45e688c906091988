"""Preference pairs out of a comparison: which answers are paired, and the files that DPO trainers read."""
