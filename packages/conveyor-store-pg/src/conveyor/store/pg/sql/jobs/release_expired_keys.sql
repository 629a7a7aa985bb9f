-- Keys whose time is over have no holder any more.
with found as materialized (
  select j.seq
    from unnest(%(queues)s::text[], %(keys)s::text[]) e (queue, unique_key)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = e.queue
        and unique_key = e.unique_key
        and holds_key
     offset 0
   ) j
),
lapsed as materialized (
  select seq
    from {schema}.conveyor_jobs
   where seq = any(array(select seq from found))
     and unique_until <= coalesce(%(now)s::timestamptz, clock_timestamp())
   order by seq
     for update
)
update {schema}.conveyor_jobs
   set holds_key = false
 where seq = any(array(select seq from lapsed))
