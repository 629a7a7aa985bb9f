-- The values are repeated for each row of a batch: see statements.write.
insert into conveyor_jobs (
  seq,
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
  sort_key,
  tie_break,
  holds_key,
  unique_until,
  pending,
  released,
  created_at
)
values
  (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
on conflict do nothing
