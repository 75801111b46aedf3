"""Language models over the tokens of a speech recognizer: estimation, training, files."""
