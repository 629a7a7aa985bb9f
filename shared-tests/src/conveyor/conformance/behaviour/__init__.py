"""The store as users meet it: queues, workers, flows, schedules and the rest of core on it."""
