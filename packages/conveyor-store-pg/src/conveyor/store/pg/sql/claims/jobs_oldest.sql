-- The jobs of one sub-queue, most urgent first.
select j.sort_key, j.tie_break as second
  from {schema}.conveyor_jobs j
 where {subqueue}
 order by j.sort_key, j.tie_break
 limit {depth}
