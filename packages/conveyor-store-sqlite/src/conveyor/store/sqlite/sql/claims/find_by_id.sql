select json_group_array(json_array(sort_key, tie_break))
  from conveyor_jobs
 where queue = :queue
   and id in (select value from json_each(:ids))
   and state in ('waiting', 'delayed', 'waiting-children')
