"""A Conveyor store in one JSON file: small, complete, and meant to be read."""

from conveyor_store_jsonfile.store import JsonFileStore

__all__ = ["JsonFileStore"]
