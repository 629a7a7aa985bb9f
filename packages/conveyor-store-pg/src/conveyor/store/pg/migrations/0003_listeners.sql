-- Who listens to which events; bus.py keeps it. It is worth nothing after a crash: those who listen say so
-- again when they have their line back.
create unlogged table {schema}.conveyor_listeners (
  handle text collate "C" primary key,
  -- The kinds of events wanted, by queue; null: all of them.
  wanted json not null,
  until timestamptz not null
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);
