select json_group_array(json_array(j.queue, j.id))
  from json_each(:jobs) e
  join conveyor_jobs j
    on j.queue = e.value ->> 0
   and j.id = e.value ->> 1
 where j.state = 'waiting-children'
