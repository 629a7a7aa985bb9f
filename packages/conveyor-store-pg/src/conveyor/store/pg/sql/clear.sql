-- Every trace of a queue but its jobs.
with groups as (delete from {schema}.conveyor_groups where queue = %(queue)s),
lanes as (delete from {schema}.conveyor_lanes where queue = %(queue)s),
queues as (delete from {schema}.conveyor_queues where queue = %(queue)s),
starts as (delete from {schema}.conveyor_starts where queue = %(queue)s),
windows as (delete from {schema}.conveyor_windows where queue = %(queue)s),
pauses as (delete from {schema}.conveyor_pauses where queue = %(queue)s)
delete from {schema}.conveyor_tombstones
 where queue = %(queue)s
