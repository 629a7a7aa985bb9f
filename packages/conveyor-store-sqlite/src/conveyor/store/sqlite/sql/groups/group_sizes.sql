select json_group_array(json_array(g.queue, g.grp, g.waiting + g.delayed))
  from json_each(:groups) e
  join conveyor_groups g
    on g.queue = e.value ->> 0
   and g.grp = e.value ->> 1
