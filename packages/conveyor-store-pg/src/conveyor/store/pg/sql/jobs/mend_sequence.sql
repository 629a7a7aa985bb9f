-- Have the sequence of jobs go on behind all rows, if one of these numbers was taken when it gave them: as
-- after a restore of the data alone. One at a time: where the sequence is does not depend on a snapshot, so who
-- comes later finds it mended, also when its last number is that of the last row by then. It begins somewhat
-- behind, since others draw numbers while this is done.
with taken as materialized (
  select seq
    from {schema}.conveyor_jobs
   where seq = any(%(numbers)s::bigint[])
   limit 1
),
alone as materialized (
  select pg_advisory_xact_lock(%(family)s, '{schema}.conveyor_jobs_seq'::regclass::oid::bigint::bit(32)::int) is not null as yes
    from taken
)
select setval('{schema}.conveyor_jobs_seq', s.most + 1000)
  from alone a
 cross join lateral (
   select q.last_value, q.is_called, (select seq from {schema}.conveyor_jobs order by seq desc limit 1) as most
     from {schema}.conveyor_jobs_seq q
    where a.yes
 ) s
 where s.last_value < s.most
    or s.last_value = s.most and not s.is_called
