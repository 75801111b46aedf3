"""From a manifest to batches: audio, augmentation, features, tokens."""
