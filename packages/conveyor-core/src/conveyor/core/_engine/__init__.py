"""The parts of a worker. Each does one thing, and has a `tick()` that tests call."""
