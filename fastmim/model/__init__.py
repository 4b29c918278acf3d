"""Networks, and the parts that build them: maskings, encoders, decoders, targets, losses and task heads."""
