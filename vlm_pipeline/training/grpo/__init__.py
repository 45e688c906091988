"""GRPO: an adapter goes on from another one by the task's own scorer as the reward, with TRL's trainer.

`reward.py` and `watch.py` are pure functions; only `trainer.py` knows TRL, which is an optional extra.
"""
