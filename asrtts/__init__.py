"""End-to-end speech recognition recipes: prepare, train, compare and ship on two CPU cores or many GPUs.

Shapes, here and nowhere else: B batch, T frames, U tokens, S samples, F feature bins, D model width,
V vocabulary, H heads. Time stands before channels, (B, T, D), except inside convolutions.
"""

__version__ = "0.1.0"
