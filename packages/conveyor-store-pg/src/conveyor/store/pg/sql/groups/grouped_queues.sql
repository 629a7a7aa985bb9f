-- Which of these queues have anything to do with groups, or with claims that go one after another.
select q.queue
  from unnest(%(queues)s::text[]) q (queue)
 where (
   select true
     from {schema}.conveyor_groups
    where queue = q.queue
    order by grp
    limit 1
 ) is not null
    or exists (select from {schema}.conveyor_queues where queue = q.queue)
