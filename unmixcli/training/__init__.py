"""Training: recipes, losses, the loop, and what comes out of it. Start reading at `run.py`."""
