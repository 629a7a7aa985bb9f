"""Many at once: races, crashes, interleavings, and random histories."""
