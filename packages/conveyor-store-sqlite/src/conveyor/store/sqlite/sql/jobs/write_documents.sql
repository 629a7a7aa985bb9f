-- What the holders of leases want written. The values are repeated for each: see statements.write.
update conveyor_jobs
   set payload = coalesce(v.column2, payload),
       report = coalesce(v.column3, report)
  from (
    values
      (?, ?, ?)
  ) v
 where conveyor_jobs.seq = v.column1
   and conveyor_jobs.state = 'active'
