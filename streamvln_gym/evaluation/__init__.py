"""Evaluation: playing whole splits, what it leaves on disk, and the page about it."""
