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
    j.queue,
    j.id,
    j.name,
    j.payload::text,
    j.options::text,
    j.report::text,
    j.priority,
    j.lifo,
    j.ageing,
    j.delay,
    j.run_at at time zone 'UTC',
    j.grp,
    j.group_max_size,
    j.unique_key,
    j.unique_for,
    j.parent_queue,
    j.parent_id,
    j.state,
    j.seq,
    j.rank,
    j.holds_key,
    j.unique_until at time zone 'UTC',
    j.pending,
    j.released,
    j.token,
    j.lease_until at time zone 'UTC',
    j.locked_by,
    j.attempt,
    j.stalled,
    j.started,
    j.cancel_requested,
    j.created_at at time zone 'UTC',
    j.processed_at at time zone 'UTC',
    j.finished_at at time zone 'UTC',
    j.expires_at at time zone 'UTC',
    j.keep_count
)
select * from leased
