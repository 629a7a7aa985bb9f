"""What is read of a queue without changing it: events, explanations, groups, workers."""
