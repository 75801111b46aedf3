"""Search algorithms over the scores of a model."""
