-- What need not be remembered: ended pauses (those of groups end in end_group_pauses.sql), old tombstones,
-- so many of them at a time.
with over as (
  delete from {schema}.conveyor_pauses
   where queue = any(%(queues)s::text[])
     and kind <> 'group'
     and resumes_at <= %(now)s
)
delete from {schema}.conveyor_tombstones
 where ctid = any(array(
   select t.place
     from unnest(%(queues)s::text[]) q (queue)
    cross join lateral (
      select ctid as place
        from {schema}.conveyor_tombstones
       where queue = q.queue
         and at <= %(horizon)s
       order by at
       limit 10000
    ) t
 ))
