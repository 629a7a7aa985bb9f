select json_group_array(json_array(wanted, until))
  from conveyor_listeners
 where handle <> :handle
