"""What each corpus looks like on disk. A file gives `download(root, ...)` and `utterances(root)`."""
