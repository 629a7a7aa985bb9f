-- For each job of a call the one that has its id, or else the holder of its key: one that was there before,
-- or that this call wrote before it.
select e.n, s.queue, s.id, s.state, s.created_at at time zone 'UTC'
  from unnest(
    %(numbers)s::int[],
    %(queues)s::text[],
    %(ids)s::text[],
    %(keys)s::text[],
    %(before)s::bigint[]
  ) e (n, queue, id, unique_key, before)
 cross join lateral (
   (
     select 1 as step, j.queue, j.id, j.state, j.created_at
       from {schema}.conveyor_jobs j
      where j.queue = e.queue
        and j.id = e.id
        and (j.seq < e.before or j.seq <> all(%(own)s::bigint[]))
   )
   union all
   (
     select 2, j.queue, j.id, j.state, j.created_at
       from {schema}.conveyor_jobs j
      where j.queue = e.queue
        and j.unique_key = e.unique_key
        and j.holds_key
        and (j.seq < e.before or j.seq <> all(%(own)s::bigint[]))
   )
   order by step
   limit 1
 ) s
