-- What a step has to know of jobs to move them, in the order of jobs._row.
select json_group_array(
  json_array(
    seq,
    queue,
    id,
    state,
    token,
    attempt,
    stalled,
    cancel_requested,
    priority,
    rank,
    run_at,
    delay,
    pending,
    released,
    parent_queue,
    parent_id,
    unique_key,
    unique_for,
    unique_until,
    holds_key,
    finished_at,
    expires_at,
    keep_count,
    settled_token,
    settled_state,
    settled_at
  )
)
  from conveyor_jobs
 where seq in (select value from json_each(:seqs))
