-- What autovacuum does a minute later. A table that is being vacuumed is not waited for.
analyze (skip_locked)
  {schema}.conveyor_jobs,
  {schema}.conveyor_groups,
  {schema}.conveyor_subqueues
