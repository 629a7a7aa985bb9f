"""The PostgreSQL store."""


class PgStore:
    """A placeholder for the store."""

    def __init__(self) -> None:
        raise NotImplementedError
