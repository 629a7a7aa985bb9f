-- What a step has to know of jobs to move them, in the order of jobs._row.
select json_group_array(
  json_array(
    {include row_columns}
  )
)
  from conveyor_jobs j
 where j.seq in (select value from json_each(:seqs))
