"""Losses, each a function of tensors."""
