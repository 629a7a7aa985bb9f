-- Lease these jobs, those of them that are waiting and that no other call has locked, each with the state it
-- was in; and say first whether one that has stalled before ended them, where that makes a difference: it may
-- come alone.
with picked as materialized (
  select seq, stalled
    from {schema}.conveyor_jobs
   where seq = any(%(seqs)s::bigint[])
     and state = 'waiting'
   order by seq
     for update skip locked
),
stalled as materialized (
  select min(array_position(%(seqs)s::bigint[], seq)) as ordinal
    from picked
   where stalled > 0
     and %(isolate)s::boolean
),
chosen as materialized (
  select p.seq
    from picked p
   cross join stalled s
   where s.ordinal is null
      or array_position(%(seqs)s::bigint[], p.seq) < s.ordinal
  union all
  select p.seq
    from picked p
   cross join stalled s
   where %(alone)s::boolean
     and array_position(%(seqs)s::bigint[], p.seq) = s.ordinal
     and s.ordinal = (select min(array_position(%(seqs)s::bigint[], seq)) from picked)
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
    {include record_columns}
)
select
  s.ordinal is not null as cut_short,
  l.*
  from stalled s
  left join leased l
    on true
