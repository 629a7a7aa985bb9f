"""Schedules: when they are due, how they are stored, and what their runs become."""
