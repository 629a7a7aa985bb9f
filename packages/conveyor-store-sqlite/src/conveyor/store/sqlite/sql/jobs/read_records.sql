-- Whole rows, in the order of rows.COLUMNS; one JSON value, because each row fetched lets another thread run.
select json_group_array(
  json_array(
    queue,
    id,
    name,
    payload,
    options,
    report,
    priority,
    lifo,
    ageing,
    delay,
    run_at,
    grp,
    group_max_size,
    unique_key,
    unique_for,
    parent_queue,
    parent_id,
    state,
    seq,
    sort_key,
    holds_key,
    unique_until,
    pending,
    released,
    token,
    lease_until,
    locked_by,
    attempt,
    stalled,
    started,
    cancel_requested,
    created_at,
    processed_at,
    finished_at,
    expires_at,
    keep_count
  )
)
  from conveyor_jobs
 where seq in (select value from json_each(:seqs))
