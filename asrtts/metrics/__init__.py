"""Measuring: error rates, intervals and timing. No torch here."""
