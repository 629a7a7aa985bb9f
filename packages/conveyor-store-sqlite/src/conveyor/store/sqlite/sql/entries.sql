-- What a step has to know of jobs to move them, in the order of jobs._row.
select json_group_array(
  json_array(
    j.seq,
    j.queue,
    j.id,
    j.state,
    j.token,
    j.attempt,
    j.stalled,
    j.cancel_requested,
    j.priority,
    j.rank,
    j.run_at,
    j.delay,
    j.pending,
    j.released,
    j.parent_queue,
    j.parent_id,
    j.unique_key,
    j.unique_for,
    j.unique_until,
    j.holds_key,
    j.finished_at,
    j.expires_at,
    j.keep_count,
    j.settled_token,
    j.settled_state,
    j.settled_at
  )
)
  from json_each(:keys) e
  join conveyor_jobs j
    on j.queue = e.value ->> 0
   and j.id = e.value ->> 1
