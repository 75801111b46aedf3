"""Experiments: settings of a task, the run folder exp/<name>, and runs that a verb starts."""
