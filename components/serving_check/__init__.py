"""The ServingCheck component: before a push, runs a new model on real images in a fresh process, as a server would."""
