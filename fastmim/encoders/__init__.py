"""Encoders: images and a mask to latent tokens, one file per backbone family. May import timm, L1 and L0."""
