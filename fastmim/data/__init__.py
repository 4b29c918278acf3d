"""The way from files to batches: lists, sample order, crops, decoders, and substitutes of bad files."""
