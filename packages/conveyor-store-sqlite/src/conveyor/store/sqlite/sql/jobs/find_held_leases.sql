select json_group_array(json_array(e.key, j.seq, j.cancel_requested))
  from json_each(:leases) e
  join conveyor_jobs j
    on j.queue = e.value ->> 0
   and j.id = e.value ->> 1
 where j.state = 'active'
   and j.token = e.value ->> 2
