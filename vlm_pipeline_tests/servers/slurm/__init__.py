"""Slurm for tests: the real one on this machine where it is installed, and a stand-in of its commands everywhere."""
