"""Jobs as they are stored: how they are made, read, changed from outside and ended."""
