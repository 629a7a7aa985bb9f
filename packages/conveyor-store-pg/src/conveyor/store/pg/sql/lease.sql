-- Lease these jobs, those of them that are waiting and that nobody else is at, each with the state it was in; and
-- say first whether one that has stalled before ended them, where that makes a difference: it may come alone.
with picked as materialized (
  select seq, stalled
    from {schema}.conveyor_jobs
   where seq = any(%(seqs)s::bigint[])
     and state = 'waiting'
   order by seq
     for update skip locked
),
stalled as materialized (
  select min(array_position(%(seqs)s::bigint[], seq)) as place
    from picked
   where stalled > 0
     and %(isolate)s::boolean
),
chosen as materialized (
  select p.seq
    from picked p
   cross join stalled s
   where s.place is null
      or array_position(%(seqs)s::bigint[], p.seq) < s.place
  union all
  select p.seq
    from picked p
   cross join stalled s
   where %(alone)s::boolean
     and array_position(%(seqs)s::bigint[], p.seq) = s.place
     and s.place = (select min(array_position(%(seqs)s::bigint[], seq)) from picked)
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
   where j.seq = any(array(select seq from chosen))
  returning
    'waiting' as was,
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
select
  s.place is not null as cut_short,
  l.*
  from stalled s
  left join leased l
    on true
