-- What a step has to know of jobs to move them, in the order of jobs.row_of; nobody else moves them meanwhile.
with found as materialized (
  select j.seq
    from unnest(%(queues)s::text[], %(ids)s::text[]) e (queue, id)
   cross join lateral (
     select seq
       from {schema}.conveyor_jobs
      where queue = e.queue
        and id = e.id
     offset 0
   ) j
   order by j.seq
)
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
  from found f
 cross join lateral (
   select *
     from {schema}.conveyor_jobs
    where seq = f.seq
   offset 0
      for update
 ) j
