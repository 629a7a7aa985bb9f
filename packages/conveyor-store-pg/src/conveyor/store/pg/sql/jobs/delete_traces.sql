-- Every trace of a queue but its jobs. The group of a job that was added since they were removed stays, and so
-- does its sub-queue: without them the job could never be claimed (test_pg_snapshots.py).
with idle as materialized (
  select grp
    from {schema}.conveyor_groups
   where queue = %(queue)s
     and waiting = 0
     and delayed = 0
     and active = 0
   order by grp
     for update skip locked
),
groups as (
  delete from {schema}.conveyor_groups
   where queue = %(queue)s
     and grp = any(array(select grp from idle))
),
queues as (delete from {schema}.conveyor_queues where queue = %(queue)s),
starts as (delete from {schema}.conveyor_starts where queue = %(queue)s),
windows as (delete from {schema}.conveyor_windows where queue = %(queue)s),
pauses as (delete from {schema}.conveyor_pauses where queue = %(queue)s)
delete from {schema}.conveyor_tombstones
 where queue = %(queue)s
