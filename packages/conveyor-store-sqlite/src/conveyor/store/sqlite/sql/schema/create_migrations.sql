create table if not exists conveyor_migrations (
  version integer primary key,
  name text not null,
  at text not null
) strict
