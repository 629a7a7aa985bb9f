"""The processes of a worker with `executor="process"`, and what it says to them."""
