-- Keys whose time is over have no holder any more.
with lapsed as materialized (
  select j.seq
    from unnest(%(queues)s::text[], %(keys)s::text[]) e (queue, unique_key)
    join {schema}.conveyor_jobs j
      on j.queue = e.queue
     and j.unique_key = e.unique_key
     and j.holds_key
   where j.unique_until <= coalesce(%(now)s::timestamptz, clock_timestamp())
   order by j.seq
     for update of j
)
update {schema}.conveyor_jobs j
   set holds_key = false
  from lapsed l
 where j.seq = l.seq
   and j.holds_key
