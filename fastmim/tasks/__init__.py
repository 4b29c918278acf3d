"""Tasks: each builds a module and evaluates it. May import L3 and below."""
