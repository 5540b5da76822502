"""The embedded world of the diffusion recipe."""
