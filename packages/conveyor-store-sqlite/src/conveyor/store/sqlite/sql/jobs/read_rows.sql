-- What a step has to know of jobs to move them, in the order of jobs._row.
select json_group_array(
  json_array(
    {include row_columns}
  )
)
  from json_each(:keys) e
  join conveyor_jobs j
    on j.queue = e.value ->> 0
   and j.id = e.value ->> 1
