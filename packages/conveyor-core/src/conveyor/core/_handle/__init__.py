"""What `Job` is made of: a snapshot, a remote control, and what its handler can do with it."""
