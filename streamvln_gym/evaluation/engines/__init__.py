"""Who plays the episodes: processes of this machine, torchrun's ranks, or actors of a Ray cluster."""
