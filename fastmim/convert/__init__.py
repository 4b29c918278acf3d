"""Official checkpoints in and out: one module a method with the names of its formats. May import L3 and below."""
