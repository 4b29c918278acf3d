"""Settings of a run: one file for each task, and the parsing of the command line."""
