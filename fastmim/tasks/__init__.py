"""Tasks: each task trains and evaluates one kind of module. `trainer.py` has the training loop."""
