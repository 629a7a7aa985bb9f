-- Lease jobs by their ids, whatever they wait for; each with the state it was in. They are locked in the order in
-- which all others lock jobs.
with found as materialized (
  select j.seq
    from unnest(%(ids)s::text[]) e (id)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = %(queue)s
        and id = e.id
     offset 0
   ) j
),
picked as materialized (
  select seq, state as was
    from {schema}.conveyor_jobs
   where seq = any(array(select seq from found))
     and state in ('waiting', 'delayed', 'waiting-children')
   order by seq
     for update
),
leased as (
  update {schema}.conveyor_jobs j
     set state = 'active',
         token = %(token)s,
         lease_until = %(now)s::timestamptz + %(lease)s * interval '1 microsecond',
         locked_by = %(worker)s,
         attempt = j.attempt + 1,
         started = %(started)s::boolean and j.stalled = 0,
         processed_at = %(now)s
    from picked p
   where j.seq = any(array[p.seq])
  returning
    p.was,
    {include record_columns}
)
select * from leased
