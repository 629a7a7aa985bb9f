-- The state of jobs, and what goes with it. A job that is not active has no lease.
-- The values are repeated for each row of a batch, in the order of jobs._saved: see statements.write.
update conveyor_jobs
   set state = v.column2,
       attempt = v.column3,
       cancel_requested = v.column4,
       run_at = v.column5,
       delay = v.column6,
       pending = v.column7,
       released = v.column8,
       holds_key = v.column9,
       finished_at = v.column10,
       expires_at = v.column11,
       keep_count = v.column12,
       settled_token = v.column13,
       settled_state = v.column14,
       settled_at = v.column15,
       token = iif(v.column2 = 'active', token, null),
       lease_until = iif(v.column2 = 'active', lease_until, null),
       locked_by = iif(v.column2 = 'active', locked_by, null),
       started = iif(v.column2 = 'active', started, 0),
       stalled = v.column17,
       report = coalesce(v.column16, report)
  from (
    values
      (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
  ) v
 where conveyor_jobs.seq = v.column1
