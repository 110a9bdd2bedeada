"""Lets a new model answer real images in a process of its own, as a server would, before it may be pushed."""
