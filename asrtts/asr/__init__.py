"""Speech recognition: one encoder and weighted heads."""
