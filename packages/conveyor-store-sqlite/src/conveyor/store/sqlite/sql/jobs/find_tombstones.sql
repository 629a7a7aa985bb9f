select json_group_array(json_array(t.queue, t.id, t.token, t.state))
  from json_each(:leases) e
  join conveyor_tombstones t
    on t.queue = e.value ->> 0
   and t.id = e.value ->> 1
   and t.token = e.value ->> 2
