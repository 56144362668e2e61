"""The embedded simulator: renderer and navigation mesh on one CPU core, without habitat; neither knows of the other."""
