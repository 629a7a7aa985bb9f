"""A session that explains every statement before it runs it: what it looks at, by either kind of plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from psycopg import ClientCursor, Connection
from psycopg._queries import PostgresQuery
from psycopg.adapt import Transformer

from conveyor.store.pg.statements import Row, Session, Statements

LARGE: Final = {
    "conveyor_jobs",
    "conveyor_groups",
    "conveyor_subqueues",
    "conveyor_starts",
    "conveyor_tombstones",
}


@dataclass(frozen=True)
class Seen:
    """What one statement did by one plan."""

    statement: str
    generic: bool
    buffers: int
    #: Rows that any step of the plan produced, or looked at and left out.
    compared: float
    #: Of each large table: the rows that were looked at.
    rows: Mapping[str, float]
    scanned: frozenset[str]
    indexes: frozenset[str]

    def __str__(self) -> str:
        rows = " ".join(f"{table}={rows:.0f}" for table, rows in self.rows.items())
        plan = "generic" if self.generic else "custom"
        return (
            f"{self.statement} ({plan}): {self.buffers} buffers, {self.compared:.0f} rows compared, {rows}; "
            f"scans {sorted(self.scanned)}; by {sorted(self.indexes)}"
        )


class Explaining(Session):
    """A session that explains every statement before it runs it."""

    def __init__(self, connection: Connection[Any], schema: str = "public", *, keeps: bool = False) -> None:
        """Explain what is run on this connection, in this schema.

        `keeps`: a statement is planned once, when it is first run, without regard to its values.
        """
        self.connection = connection
        self.statements = Statements(schema)
        self.seen: list[Seen] = []
        self._kept: dict[tuple[str, bytes], str] | None = {} if keeps else None
        # As the store has it. It changes no plan: some would be compiled for seconds.
        connection.execute("set local jit = off")

    async def ask(self, name: str, /, **values: Any) -> list[Row]:
        self._explain(name, self.statements[name], values)
        return self.connection.execute(self.statements[name], values).fetchall()

    async def run(self, name: str, /, **values: Any) -> int:
        self._explain(name, self.statements[name], values)
        return self.connection.execute(self.statements[name], values).rowcount

    async def query(self, statement: bytes, values: Mapping[str, Any]) -> list[Row]:
        name = "read_rows_of_set" if b"for update" in statement else "set"
        self._explain(name, statement, values)
        return self.connection.execute(statement, values).fetchall()

    def _explain(self, name: str, statement: bytes, values: Mapping[str, Any]) -> None:
        query = PostgresQuery(Transformer(self.connection))
        query.convert(statement, values)
        types = [self._type(oid) for oid in query.types]
        # the values, as often as the statement names them, in the order of its numbers
        given = [values[each] for each in dict.fromkeys(query._order or ())]
        for generic in (True, False) if self._kept is None else (True,):
            mode = "generic" if generic else "custom"
            self.connection.execute(f"set local plan_cache_mode = force_{mode}_plan".encode())
            if self._kept is None:
                # what is prepared is so on a direct line, which plans like that
                scans = "off" if generic else "on"
                self.connection.execute(f"set local enable_seqscan = {scans}".encode())
            self.connection.execute("savepoint explaining")
            plan = self._plan(self._prepared(query.query, types), given)
            self.seen.append(_seen(name, plan, generic=generic))
            self.connection.execute("rollback to savepoint explaining")
            if self._kept is None:
                self.connection.execute("deallocate explained")

    def _prepared(self, statement: bytes, types: list[str]) -> str:
        """The name of the statement on the server, where it is prepared unless it was and is kept."""
        head = f"({', '.join(types)})" if types else ""
        name = "explained"
        if self._kept is not None:
            if (head, statement) in self._kept:
                return self._kept[head, statement]
            name = f"kept_{len(self._kept)}"
        self.connection.execute(f"prepare {name}{head} as ".encode() + statement, prepare=False)
        if self._kept is not None:
            self._kept[head, statement] = name
        return name

    def _plan(self, name: str, given: list[Any]) -> Mapping[str, Any]:
        marks = f"({', '.join(['%s'] * len(given))})" if given else ""
        cursor = ClientCursor(self.connection)
        cursor.execute(
            f"explain (analyze, buffers, timing off, format json) execute {name}{marks}".encode(), given
        )
        row = cursor.fetchone()
        assert row is not None
        found: Mapping[str, Any] = row[0][0]["Plan"]
        return found

    def _type(self, oid: int) -> str:
        info = self.connection.adapters.types.get(oid)
        if info is None:
            return "unknown"
        if info.name in {"int2", "int4"}:
            return "bigint[]" if info.array_oid == oid else "bigint"  # whatever the numbers happen to be
        return f"{info.regtype}[]" if info.array_oid == oid else info.regtype


_COMPARED: Final = (
    "Actual Rows",
    "Rows Removed by Filter",
    "Rows Removed by Join Filter",
    "Rows Removed by Index Recheck",
)


def _seen(name: str, plan: Mapping[str, Any], *, generic: bool) -> Seen:
    rows: dict[str, float] = {}
    scanned: set[str] = set()
    indexes: set[str] = set()
    compared = 0.0
    nodes = [plan]
    while nodes:
        node = nodes.pop()
        nodes += node.get("Plans", ())
        compared += sum(node.get(counted, 0) for counted in _COMPARED) * node["Actual Loops"]
        if "Index Name" in node:
            indexes.add(node["Index Name"])
        table = node.get("Relation Name")
        if table not in LARGE or "Scan" not in node["Node Type"]:
            continue
        read = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        read += node.get("Rows Removed by Index Recheck", 0)
        rows[table] = rows.get(table, 0) + read * node["Actual Loops"]
        if node["Node Type"] == "Seq Scan":
            scanned.add(table)
    buffers = plan["Shared Hit Blocks"] + plan["Shared Read Blocks"]
    return Seen(name, generic, buffers, compared, rows, frozenset(scanned), frozenset(indexes))
