"""Online DAgger: environments in worker processes, a frame buffer on the training device, no files in between."""
