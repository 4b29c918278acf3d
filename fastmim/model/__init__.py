"""Networks, and the parts that build them: encoders, decoders, maskings, targets and losses."""
