"""When each word and each phone of a known text is spoken."""
