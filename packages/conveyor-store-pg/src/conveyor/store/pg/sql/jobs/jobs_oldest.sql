-- The jobs of one lane, most urgent first.
select j.rank, j.place as second
  from {schema}.conveyor_jobs j
 where {lane}
 order by j.rank, j.place
 limit {depth}
