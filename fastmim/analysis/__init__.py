"""Pictures and figures of merit for a run. May import L3 and below."""
