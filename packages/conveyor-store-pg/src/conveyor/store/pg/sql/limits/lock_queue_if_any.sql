-- The same for a queue that has such a line; none otherwise.
select 1
  from {schema}.conveyor_queues
 where queue = %(queue)s
   for update
