-- The same, for the jobs of a set: those that are still in it when they are locked.
select
  j.seq,
  j.queue,
  j.id,
  j.name,
  j.grp,
  j.state,
  j.token,
  j.attempt,
  j.stalled,
  j.cancel_requested,
  j.priority,
  j.rank,
  j.run_at at time zone 'UTC',
  j.delay,
  j.pending,
  j.released,
  j.parent_queue,
  j.parent_id,
  j.unique_key,
  j.unique_for,
  j.unique_until at time zone 'UTC',
  j.holds_key,
  j.finished_at at time zone 'UTC',
  j.expires_at at time zone 'UTC',
  j.keep_count,
  j.settled_token,
  j.settled_state,
  j.settled_at at time zone 'UTC'
  from (
    select seq
      from unnest(%(seqs)s::bigint[]) s (seq)
     order by seq
  ) s
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = s.seq
      and {terms}
   offset 0
      for update
 ) j
