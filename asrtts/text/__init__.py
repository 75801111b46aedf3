"""Text: normalization, tokens and phones. No torch here."""
