-- What only `Store.update` changes. The values are repeated for each row of a batch: see statements.write.
update conveyor_jobs
   set priority = v.column2,
       sort_key = v.column3,
       payload = coalesce(v.column4, payload),
       processed_at = iif(v.column5, null, processed_at)
  from (
    values
      (?, ?, ?, ?, ?)
  ) v
 where conveyor_jobs.seq = v.column1
