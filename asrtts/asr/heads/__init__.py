"""Heads: `Config` and `Head`, which gives a loss, a search and its parts."""
