-- When the next job of the queue is due, or the next lease runs out.
select
  min(
    coalesce((select min(run_at) from conveyor_jobs where queue = :queue and state = 'delayed'), '~'),
    coalesce((select min(lease_until) from conveyor_jobs where queue = :queue and state = 'active'), '~')
  )
