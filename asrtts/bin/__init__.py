"""Verbs: one file, one verb, one line of a recipe. They load settings, make the parts and introduce them."""
