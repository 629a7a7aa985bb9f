-- Whole rows of a set, in its order; the columns in that of rows.py. The set is chosen in the same statement: by
-- another one, jobs that had left it since were returned.
select
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
  from unnest(array(
{seqs}
  )) with ordinality s (seq, n)
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = s.seq
   offset 0
 ) j
 order by s.n
