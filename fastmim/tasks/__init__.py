"""Tasks: each trains one kind of module and evaluates it. `trainer.py` is the loop around them."""
