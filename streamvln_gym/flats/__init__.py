"""Procedurally generated furnished flats with episodes and instructions, written as ordinary VLN-CE data."""
