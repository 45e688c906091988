"""The decision that an adapter may ship: checklist, pointer with its history, roll-back, model card."""
