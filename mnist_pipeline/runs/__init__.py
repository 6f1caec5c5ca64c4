"""Results out: the facts of each published run, and how they become visible at once. Judges nothing."""
