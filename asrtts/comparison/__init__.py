"""Comparisons of trained and decoded systems: what is fair, what is measured, the table and the page."""
